"""Words around a gene's name that say whether a cell expresses it: plain tables, in lower case."""

from __future__ import annotations

__all__ = [
    "ABSENT_MARKS",
    "BE",
    "BREAKS",
    "CHAINS",
    "CONTRAST",
    "CONTRAST_PHRASES",
    "DENIALS",
    "ELSEWHERE",
    "FAMILIES",
    "GONE",
    "HAVE",
    "HAVE_PHRASES",
    "INTRODUCE",
    "JOINTS",
    "LACK",
    "LACK_PHRASES",
    "MARK",
    "ONE_OF",
    "OTHER_THINGS",
    "PRESENT_MARKS",
    "SHOWN",
    "SUBUNITS",
    "UNTOLD",
    "WEAK_MARKS",
]

UNTOLD = frozenset("CD15 CD15S CD57 CD75 CD32 CD45RA CD45RB CD45RC CD45RO CD45R B220".split())
"""Epitopes that a count of molecules of a gene does not tell: isoforms, sugars, families."""
ONE_OF = {"CD16": frozenset({"FCGR3A"})}
ELSEWHERE = frozenset("to with by from into against on between".split())
"""Before a marked name: it is another cell's."""
FAMILIES = frozenset("interleukin keratin cytokeratin aquaporin claudin mucin".split())
SUBUNITS = {"alpha": "A", "beta": "B"}
CHAINS = frozenset(
    "alpha beta gamma delta epsilon chain chains heterodimer protein proteins".split()
)

PRESENT_MARKS = frozenset(
    "positive expressing bright high hi pos secreting producing containing immunoreactive "
    "immunoreactivity releasing synthesizing synthesising".split()
)
ABSENT_MARKS = frozenset("negative neg deficient null".split())
WEAK_MARKS = frozenset("low lo dim int intermediate variable".split())
OTHER_THINGS = frozenset(
    """receptor receptors ligand ligands signalling signaling dependent independent inhibitor inhibitors
    antibody antibodies antagonist agonist deficiency mutation mutations variant variants promoter like
    pathway pathways stimulation treatment therapy response responses responsive responding binding target
    targets induced mediated driven stimulated sensitive antigen complex gene locus family cell cells T B
    NK lymphocyte lymphocytes thymocyte thymocytes monocyte monocytes""".split()
)
HAVE = frozenset(
    """express expresses expressing expressed coexpress coexpresses coexpressing expression secrete secretes
    secreting secretion produce produces producing production release releases releasing synthesize
    synthesizes synthesise synthesises store stores carry carries bear bears display displays displaying
    upregulate upregulates marker markers transcripts transcript mrna secretory""".split()
)
HAVE_PHRASES = (
    ("positive", "for"), ("marked", "by"), ("characterized", "by"), ("characterised", "by"),
    ("identified", "by"), ("defined", "by"), ("recognized", "by"), ("recognised", "by"),
    ("immunoreactive", "for"), ("rich", "in"), ("enriched", "in"), ("enriched", "for"),
    ("stain", "for"), ("stains", "for"), ("levels", "of"), ("amounts", "of"), ("level", "of"),
)  # fmt: skip
LACK = frozenset(
    "lack lacks lacking without absence absent nor neither devoid loss downregulate downregulates".split()
)
LACK_PHRASES = (("negative", "for"), ("deficient", "in"), ("free", "of"))
DENIALS = frozenset(
    "not no never without lack lacks lacking absence neither nor cannot loss".split()
)
CONTRAST = frozenset("unlike whereas while versus except".split())
CONTRAST_PHRASES = (
    ("in", "contrast"), ("as", "opposed"), ("compared", "with"), ("compared", "to"), ("other", "than"),
    ("rather", "than"), ("distinct", "from"), ("distinguished", "from"), ("differ", "from"),
    ("different", "from"), ("distinguish", "from"),
)  # fmt: skip
BREAKS = frozenset(
    """in on by from to with for against upon after when during via through under at into near between than
    that which who where is are was were has have can may but they it its their receptors receptor
    antibodies antibody cell cells response interact interacts bind binds activate activates regulate
    regulates inhibit inhibits differentiate differentiates develop develops induce induces low weak
    variable intermediate dim""".split()
)
JOINTS = frozenset(", - / ( : and or the of a an".split())
INTRODUCE = frozenset("including include includes such as like eg positive".split())
BE = frozenset("is are was were be being remain remains".split())
SHOWN = frozenset("expressed present detected enriched upregulated found secreted produced".split())
GONE = frozenset("absent undetectable missing lacking lost negative".split())
MARK = frozenset("mark marks define defines identify identifies label labels serve serves".split())
