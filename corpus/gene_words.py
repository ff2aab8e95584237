"""Names of markers in running text, and the genes they stand for."""

from __future__ import annotations

import re
from functools import cache

__all__ = ["PROTEIN_PHRASES", "genes_of"]

_CD = """
CD1A CD1A;CD1B CD1B;CD1C CD1C;CD1D CD1D;CD3 CD3D CD3E CD3G;CD8 CD8A CD8B;CD10 MME;CD11A ITGAL;CD11B ITGAM;
CD11C ITGAX;CD13 ANPEP;CD15 FUT4;CD16 FCGR3A FCGR3B;CD16A FCGR3A;CD16B FCGR3B;CD18 ITGB2;CD20 MS4A1;CD21 CR2;
CD23 FCER2;CD25 IL2RA;CD26 DPP4;CD29 ITGB1;CD30 TNFRSF8;CD31 PECAM1;CD32 FCGR2A FCGR2B FCGR2C;
CD32A FCGR2A;CD32B FCGR2B;CD35 CR1;CD39 ENTPD1;CD41 ITGA2B;CD42B GP1BA;CD43 SPN;CD45 PTPRC;CD49A ITGA1;
CD49B ITGA2;CD49C ITGA3;CD49D ITGA4;CD49E ITGA5;CD49F ITGA6;CD50 ICAM3;CD51 ITGAV;CD54 ICAM1;CD56 NCAM1;
CD57 B3GAT1;CD61 ITGB3;CD62E SELE;CD62L SELL;CD62P SELP;CD64 FCGR1A;CD66A CEACAM1;CD66B CEACAM8;CD66C CEACAM6;
CD66E CEACAM5;CD71 TFRC;CD73 NT5E;CD75 ST6GAL1;CD79 CD79A CD79B;CD85J LILRB1;CD87 PLAUR;CD88 C5AR1;CD90 THY1;
CD94 KLRD1;CD95 FAS;CD98 SLC3A2;CD100 SEMA4D;CD102 ICAM2;CD103 ITGAE;CD104 ITGB4;CD105 ENG;CD106 VCAM1;
CD107A LAMP1;CD107B LAMP2;CD110 MPL;CD114 CSF3R;CD115 CSF1R;CD116 CSF2RA;CD117 KIT;CD118 LIFR;CD119 IFNGR1;
CD120A TNFRSF1A;CD120B TNFRSF1B;CD121A IL1R1;CD122 IL2RB;CD123 IL3RA;CD124 IL4R;CD126 IL6R;CD127 IL7R;
CD129 IL9R;CD130 IL6ST;CD131 CSF2RB;CD132 IL2RG;CD133 PROM1;CD134 TNFRSF4;CD135 FLT3;CD137 TNFRSF9;CD138 SDC1;
CD140A PDGFRA;CD140B PDGFRB;CD141 THBD;CD142 F3;CD143 ACE;CD144 CDH5;CD146 MCAM;CD147 BSG;CD150 SLAMF1;
CD152 CTLA4;CD153 TNFSF8;CD154 CD40LG;CD155 PVR;CD157 BST1;CD158 KIR2DL1;CD159A KLRC1;CD159C KLRC2;CD161 KLRB1;
CD162 SELPLG;CD166 ALCAM;CD167A DDR1;CD169 SIGLEC1;CD170 SIGLEC5;CD171 L1CAM;CD172A SIRPA;CD178 FASLG;
CD179A VPREB1;CD179B IGLL1;CD182 CXCR2;CD183 CXCR3;CD184 CXCR4;CD185 CXCR5;CD186 CXCR6;CD191 CCR1;CD192 CCR2;
CD193 CCR3;CD194 CCR4;CD195 CCR5;CD196 CCR6;CD197 CCR7;CD199 CCR9;CD201 PROCR;CD202B TEK;CD203C ENPP3;CD204 MSR1;
CD205 LY75;CD206 MRC1;CD208 LAMP3;CD212 IL12RB1;CD218A IL18R1;CD220 INSR;CD221 IGF1R;CD222 IGF2R;CD223 LAG3;
CD230 PRNP;CD233 SLC4A1;CD234 ACKR1;CD235A GYPA;CD236 GYPC;CD243 ABCB1;CD252 TNFSF4;CD253 TNFSF10;CD254 TNFSF11;
CD256 TNFSF13;CD257 TNFSF13B;CD262 TNFRSF10B;CD267 TNFRSF13B;CD268 TNFRSF13C;CD269 TNFRSF17;CD271 NGFR;
CD272 BTLA;CD273 PDCD1LG2;CD278 ICOS;CD279 PDCD1;CD281 TLR1;CD282 TLR2;CD283 TLR3;CD284 TLR4;CD289 TLR9;
CD294 PTGDR2;CD301 CLEC10A;CD303 CLEC4C;CD304 NRP1;CD305 LAIR1;CD309 KDR;CD314 KLRK1;CD319 SLAMF7;CD321 F11R;
CD322 JAM2;CD324 CDH1;CD325 CDH2;CD326 EPCAM;CD328 SIGLEC7;CD329 SIGLEC9;CD331 FGFR1;CD332 FGFR2;CD333 FGFR3;
CD335 NCR1;CD336 NCR2;CD337 NCR3;CD338 ABCG2;CD339 JAG1;CD340 ERBB2;CD344 FZD4;CD351 FCAMR;CD352 SLAMF6;
CD353 SLAMF8;CD357 TNFRSF18;CD360 IL21R;CD361 EVI2B;CD366 HAVCR2;CD367 CLEC4A;CD369 CLEC7A;CD370 CLEC9A;CD371 CLEC12A
"""
_OTHER = """
PD1 PDCD1;PDL1 CD274;PDL2 PDCD1LG2;TIM3 HAVCR2;KI67 MKI67;NG2 CSPG4;NEUN RBFOX3;CKIT KIT;BDCA1 CD1C;BDCA2 CLEC4C;
BDCA3 THBD;BDCA4 NRP1;DCSIGN CD209;TBET TBX21;PU1 SPI1;OCT4 POU5F1;OCT34 POU5F1;BLIMP1 PRDM1;HELIOS IKZF2;
AIOLOS IKZF3;IKAROS IKZF1;RORGT RORC;NKP46 NCR1;NKP44 NCR2;NKP30 NCR3;NKG2D KLRK1;NKG2A KLRC1;NKG2C KLRC2;
FIZZ1 RETNLB;GATA3 GATA3;TNF TNF;TNFA TNF;IFNG IFNG;IFNA IFNA1;IFNB IFNB1;TGFB TGFB1;TGFB1 TGFB1;GMCSF CSF2;
GCSF CSF3;MCSF CSF1;SCF KITLG;TSLP TSLP;RANKL TNFSF11;RANK TNFRSF11A;TRAIL TNFSF10;BAFF TNFSF13B;APRIL TNFSF13;
SDF1 CXCL12;MCP1 CCL2;RANTES CCL5;IL8 CXCL8;EOTAXIN CCL11;TRKA NTRK1;TRKB NTRK2;TRKC NTRK3;VGLUT1 SLC17A7;
VGLUT2 SLC17A6;VGLUT3 SLC17A8;VGAT SLC32A1;VMAT2 SLC18A2;DAT SLC6A3;SERT SLC6A4;GAD65 GAD2;GAD67 GAD1;
GLAST SLC1A3;GLT1 SLC1A2;CHAT CHAT;VEGFR1 FLT1;VEGFR2 KDR;VEGFR3 FLT4;TIE2 TEK;VWF VWF;ZO1 TJP1;AQP2 AQP2;
NKCC2 SLC12A1;NCC SLC12A3;SGLT2 SLC5A2;ENAC SCNN1A;MEGALIN LRP2;CUBILIN CUBN;LH LHB;FSH FSHB;ACTH POMC;TSH TSHB;MSH POMC;HCG CGB3;PTH PTH;ADH AVP;
AMH AMH;LHR LHCGR;FSHR FSHR;K1 KRT1;K2 KRT2;K4 KRT4;K5 KRT5;K6 KRT6A;K7 KRT7;K8 KRT8;K10 KRT10;K13 KRT13;K14 KRT14;
K15 KRT15;K18 KRT18;K19 KRT19;K20 KRT20;CK5 KRT5;CK7 KRT7;CK8 KRT8;CK14 KRT14;CK18 KRT18;CK19 KRT19;CK20 KRT20;
SPC SFTPC;SPB SFTPB;SPA SFTPA1;SPD SFTPD;CC10 SCGB1A1;CCSP SCGB1A1;TTF1 NKX2-1;P63 TP63;P53 TP53;
NKX21 NKX2-1;NKX61 NKX6-1;HLADR HLA-DRA;VE CDH5;DNAM1 CD226;TACI TNFRSF13B;BCMA TNFRSF17;LYVE1 LYVE1;FOXP3 FOXP3;
CX3CR1 CX3CR1;EPO EPO;TPO THPO;CRTH2 PTGDR2;ST2 IL1RL1;C KIT
"""
_PROTEINS = """
insulin INS;glucagon GCG;somatostatin SST;ghrelin GHRL;pancreatic polypeptide PPY;albumin ALB;vimentin VIM;desmin DES;
nestin NES;parvalbumin PVALB;calretinin CALB2;calbindin CALB1;reelin RELN;neuropeptide y NPY;
vasoactive intestinal peptide VIP;vasoactive intestinal polypeptide VIP;cholecystokinin CCK;gastrin GAST;
chromogranin a CHGA;synaptophysin SYP;uromodulin UMOD;nephrin NPHS1;podocin NPHS2;renin REN;rhodopsin RHO;
melanopsin OPN4;e cadherin CDH1;n cadherin CDH2;ve cadherin CDH5;vascular endothelial cadherin CDH5;
glial fibrillary acidic protein GFAP;myelin basic protein MBP;tyrosine hydroxylase TH;interferon gamma IFNG;
gamma interferon IFNG;tumor necrosis factor TNF;tumor necrosis factor alpha TNF;tumour necrosis factor TNF;
tnf alpha TNF;ifn gamma IFNG;tgf beta TGFB1;transforming growth factor beta TGFB1;erythropoietin EPO;
thrombopoietin THPO;thyroglobulin TG;calcitonin CALCA;growth hormone GH1;prolactin PRL;oxytocin OXT;vasopressin AVP;
granzyme a GZMA;granzyme b GZMB;granzyme k GZMK;granzyme h GZMH;granulysin GNLY;perforin PRF1;lysozyme LYZ;
von willebrand factor VWF;smooth muscle actin ACTA2;alpha smooth muscle actin ACTA2;t bet TBX21;ki 67 MKI67;pd 1 PDCD1;
pu 1 SPI1;c kit KIT;c fms CSF1R;prion protein PRNP;osteocalcin BGLAP;osteopontin SPP1;sclerostin SOST;myoglobin MB;
uroplakin UPK1A;filaggrin FLG;loricrin LORICRIN;involucrin IVL;fibronectin FN1;osteonectin SPARC;tenascin TNC;
doublecortin DCX;serotonin transporter SLC6A4;nerve growth factor NGF;brain derived neurotrophic factor BDNF;
stem cell factor KITLG;platelet factor 4 PF4;intrinsic factor CBLIF;secretin SCT;motilin MLN;neurotensin NTS;
thyrotropin TSHB;luteinizing hormone LHB;follicle stimulating hormone FSHB;adrenocorticotropic hormone POMC;
myeloperoxidase MPO;lactotransferrin LTF;lactoferrin LTF;transferrin TF;tryptase TPSAB1;chymase CMA1;elastase ELANE;
dopamine beta hydroxylase DBH;choline acetyltransferase CHAT;aromatase CYP19A1;aldosterone synthase CYP11B2;lactase LCT;
sucrase isomaltase SI;trypsinogen PRSS1;trypsin PRSS1;amylase AMY2A;pepsinogen PGA3;peripherin PRPH;langerin CD207;
sialoadhesin SIGLEC1;macrosialin CD68;tdt DNTT;terminal deoxynucleotidyl transferase DNTT;neural cell adhesion molecule NCAM1;
leptin LEP;parathyroid hormone PTH;melanocyte stimulating hormone POMC;chorionic gonadotropin CGB3;
antidiuretic hormone AVP;adiponectin ADIPOQ;thrombomodulin THBD;tyrosinase TYR;melan a MLANA;interferon alpha IFNA1;interferon beta IFNB1;nk p46 NCR1;hla dr HLA-DRA;mhc ii HLA-DRA;fc epsilon ri FCER1A
"""
_FAMILIES = (
    (re.compile(r"(?:interleukin|il)(\d+)(a|b|alpha|beta)?"), "IL"),
    (re.compile(r"(?:cytokeratin|keratin)(\d+)"), "KRT"),
    (re.compile(r"(?:aquaporin)(\d+)"), "AQP"),
    (re.compile(r"(?:claudin)(\d+)"), "CLDN"),
    (re.compile(r"(?:mucin)(\d+)"), "MUC"),
)
_NO_GENES = frozenset(
    """T B NK DC DNA RNA MRNA ATP GTP CAMP MHC TH AGE SET REST CAT MAX CELL CELLS II III IV VI LH UV PH
    TCR BCR HLA CNS PNS PBMC II1 MHCII HSC ILC TREG EM NM CA NA CL IGG IGM IGA IGE IGD LPS GABA AMPA
    NO CO IMPACT LARGE NOT WAS FAT SPN MICE HOPE PIP SHE HE FROM""".split()
)


def _pairs(table: str) -> dict[str, frozenset[str]]:
    entries = (entry.split() for entry in " ".join(table.split()).split(";") if entry.strip())
    return {words[0]: frozenset(words[1:]) for words in entries}


PROTEIN_PHRASES: dict[str, str] = {
    entry.strip().rpartition(" ")[0]: entry.strip().rpartition(" ")[2]
    for entry in " ".join(_PROTEINS.split()).split(";")
    if entry.strip()
}
"""Names of proteins in words (hyphens as spaces), each with its gene."""

_ALIASES = _pairs(_CD) | _pairs(_OTHER)


@cache
def genes_of(name: str) -> frozenset[str]:
    """Return the symbols that a name of a marker stands for; empty where it is none.

    ``CD16`` gives those of FCGR3A and FCGR3B, a complex gives its chains, and a symbol of an
    earlier release its present one. A surface marker without a gene of its own (``CD45RA``) stands
    for itself.
    """
    from okrcell.corpus.gene_tables import current, earlier

    bare = name.replace("-", "").replace(" ", "").replace("/", "").upper()
    if bare in _NO_GENES or len(bare) < 2:
        return frozenset()
    if bare in _ALIASES:
        return _ALIASES[bare]
    for pattern, family in _FAMILIES:
        if found := pattern.fullmatch(bare.lower()):
            symbol = (
                f"{family}{found[1]}{(found[2] or '')[:1].upper() if found.lastindex == 2 else ''}"
            )
            return frozenset({symbol})
    now = current().by_symbol
    for spelling in (name, name.upper(), bare):
        if spelling in now:
            return frozenset({spelling})
        if spelling in earlier().by_symbol:
            genes = {
                current().symbol.get(earlier().now(gene), "")
                for gene, _ in earlier().by_symbol[spelling]
            } - {""}
            if len(genes) == 1:
                return frozenset(genes)
    return frozenset({bare}) if re.fullmatch(r"CD\d+[A-Z]{0,2}\d?", bare) else frozenset()
