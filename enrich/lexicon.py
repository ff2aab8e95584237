"""Words of biology as plain tables: what means the same, what excludes each other, what says "not".

Longer than a module should be, since it is data: each table is read by one function elsewhere.
Words stand in their dictionary form; they are compared by their stems.
"""

from __future__ import annotations

__all__ = [
    "ABBREVIATED",
    "ADJECTIVES",
    "ANTONYMS",
    "CONTRAST",
    "EXCLUSIVE",
    "GENERIC_ANATOMY",
    "NEGATIVE_FORMS",
    "NEGATORS",
    "NUMBERS",
    "NOT_SUBSTANCES",
    "PARTIAL",
    "SCOPE_ENDS",
    "SEXES",
    "SHORT_ANATOMY",
    "SPECIES",
    "STAGES",
    "STOP",
    "SUBSTANCES",
    "SYNONYMS",
    "UNIVERSAL",
    "VERBS",
]

STOP = frozenset(
    """a about above across actually after again all almost along also although always among amongst an and another
    any approximately are around as at based be because been before being belong below beneath besides between both
    broad broadly but by called can cell cells chiefly close closely commonly considered considerable consist consists could
    describe described despite did do does doing done due during each either especially essentially every
    exhibit exhibited exhibiting exhibits few found for form formed forms forming from further furthermore generally
    given had has have having hence here how however i if in into involve involved involves involving is it
    its itself just kind kinds known largely least less like likely located mainly make makes making many may
    mean means member members might more moreover most mostly much must namely near nearly not of off often on
    once one ones only onto or other others otherwise our out over overall own particular particularly per
    possible present presents primarily principal principally rather referred refer refers roughly same several should show showing shown
    shows since so some sort specific specifically still such take takes than that the their them themselves then there
    thereby therefore these they thing things this those though through throughout thus to together too toward towards
    type types under until up upon use used uses using usually various very via was way ways we well were what when where
    whereas whether which while who whose will with within would typically normally
    called termed named designated categorized classified class sometimes different number characterized characterised
    characteristic population group groups set include includes including part parts""".split()
)
"""Words that carry no claim of their own; negations, numbers and quantifiers are read elsewhere."""

SYNONYMS = """
produce secrete release synthesize make generate manufacture output discharge elaborate liberate production
express carry bear display possess expression lack positive negative
locate situate reside inhabit lie position localize find occur dwell sit home occupy reside
kill cytotoxic lyse destroy eliminate attack cytolytic
engulf phagocytose ingest swallow phagocytic phagocytosis devour
arise derive originate descend stem develop come origin emerge born
precursor progenitor ancestor forerunner predecessor
kind type sort form variety subtype class category subset
contain comprise hold include enclose
role function job task purpose serve act
participate contribute help aid assist involve engage support
big large sizeable huge great
small tiny little minute
move migrate travel motile motility mobile movement migration
divide proliferate replicate mitosis mitotic multiply proliferation division
protect defend guard defence defense protection shield
detect sense recognize perceive recognition sensor
signal communicate transmit relay convey carry transfer conduct transduce send transmission pass
surround encircle wrap envelop ensheath encase sheath
line coat cover cover sheet
store stockpile accumulate storage reserve deposit
bind attach adhere stick anchor attachment adhesion
shape morphology appearance form shaped
gut intestine intestinal bowel enteric
degrade digest catabolize breakdown resorb resorption dissolve
become differentiate mature transform turn differentiation develop maturation
respond react response reaction
stimulate activate trigger induce elicit provoke activation prompt
inhibit suppress restrain dampen block prevent limit inhibition suppression curb
regulate control govern modulate regulation coordinate
maintain sustain preserve maintenance homeostasis keep
repair heal regenerate renew regeneration restore replenish
child pediatric childhood paediatric
immune immunity immunological
blood circulate bloodstream circulation hematopoietic haematopoietic
thin slender fine scant sparse
lower reduce decrease diminish decline fall drop lessen
high large abundant much plentiful rich strong
long distant distance
long elongated extended lengthy
flat flattened squamous scale
round spherical rounded globular
star stellate
spindle fusiform
cube cuboidal cubical cuboid
column columnar
projection process extension protrusion
rapid fast quick swift
slow gradual
begin start initiate onset
end terminate final last terminal
complete fully entire full whole
unlimited indefinite perpetual
nucleus nuclear nucleated nuclei karyon
neuron neuronal nerve neural nervous
hormone hormonal endocrine
body soma somata perikaryon
absorb uptake take reabsorb absorption
transport shuttle ferry move
connect link join attach
create build construct form lay
center centre middle central core
important essential vital key critical crucial central
common frequent abundant prevalent
rare scarce infrequent uncommon
inflammation inflammatory inflamed
infection infect infectious pathogen microbe
cause lead result
foreign invading invader
give rise produce yield
bone osseous skeletal
single one sole only lone
hemorrhage bleed bleeding haemorrhage
build develop
segment lobe lobed segmented lobate
capacity ability capable able can
light photon
sound hearing auditory acoustic
smell olfactory odor odour odorant
taste gustatory
fat lipid adipose fatty adipocyte
wall lining lumen line
contract contractile contraction
lymph lymphatic lymphoid
mucus mucous mucosal mucin
secretory secretion secrete
tissue organ
egg oocyte ovum
sperm spermatozoon
hair pilus
skin dermal cutaneous epidermal
brain cerebral
spread distribute disperse
resident dwell reside permanently
antigen antigenic
myelin myelinate myelinated
embryo embryonic
early initial primordial
external outer outside outward exterior
internal inner inside inward interior
surface superficial face
deep deeper
special specialize dedicate
distinguish differ differentiate distinct
measure gauge
energy metabolic
electrical electric
pigment color colour pigmented melanin
network mesh reticulum reticular
fibrous fiber fibre filament
matrix scaffold
grow growth growing enlarge
die death apoptosis
spontaneous unprompted
prior previous
memory remember
naive unexperienced
target aim
layer stratum sheet
flow stream
water fluid liquid
acid acidic
mechanical mechano touch pressure
change alter alteration convert conversion transform
present show display
supply provide give nourish deliver
excrete expel eliminate
clear remove clearance scavenge removal
human man homo sapiens
"""
"""One group a line; a word may stand in several."""

ANTONYMS = """
increase|decrease
high bright strong hi|low dim weak lo
rich abundant|poor sparse
activate stimulate induce promote enhance|inhibit suppress block dampen prevent repress
large big|small tiny
long|short
thick|thin
wide broad|narrow
early|late
first|last
fast rapid|slow
anterior|posterior
dorsal|ventral
medial|lateral
proximal|distal
left|right
upper|lower
inner internal inside|outer external outside
apical|basal
superficial|deep
ascending|descending
excitatory|inhibitory
proinflammatory|antiinflammatory
afferent|efferent
sensory|motor
positive|negative
sympathetic|parasympathetic
innate|adaptive
light|dark
cortex cortical|medulla medullary
resting quiescent rest|activated
rod|cone
arterial artery|venous vein
already|yet
before prior|after following
simple|complex
single|multiple
regular|irregular
symmetrical|asymmetrical
striated|smooth
ectoderm ectodermal|mesoderm mesodermal|endoderm endodermal
intracellular|extracellular
intrinsic|extrinsic
acid acidic|alkaline basic
exocrine|endocrine|paracrine
haploid|diploid|tetraploid|polyploid
round spherical|spindle elongated|cuboidal cube|columnar|squamous flat flattened|stellate star
classical|nonclassical
myeloid|lymphoid
naive|memory|effector
bipolar|unipolar|multipolar|pseudounipolar
dopaminergic|gabaergic|glutamatergic|cholinergic|serotonergic|noradrenergic|glycinergic
permanent|temporary transient
begin start|end terminate stop
build form deposit|resorb degrade
agonist|antagonist
open|closed
visible|invisible
uninucleate mononuclear mononucleate|multinucleate multinucleated binucleate
maternal|paternal
day|night
dendrite|axon
presynaptic|postsynaptic
contract|relax
soluble|insoluble
healthy normal|diseased
benign|malignant
"""
"""Alternatives of one axis, separated by bars: who says one of them does not say another."""

SEXES = {
    "male": "male males man men boy boys masculine".split(),
    "female": "female females woman women girl girls feminine".split(),
}

STAGES = {
    "prenatal": (
        "embryo embryos embryonic fetal fetus fetuses foetal foetus prenatal antenatal gestation gestational "
        "unborn blastocyst blastula gastrula carnegie utero fertilization"
    ).split(),
    "newborn": "newborn newborns neonate neonates neonatal infant infants infancy perinatal baby babies".split(),
    "child": "child children childhood pediatric paediatric juvenile juveniles toddler toddlers".split(),
    "adolescent": (
        "adolescent adolescents adolescence pubertal puberty teenager teenagers teenage prepubertal"
    ).split(),
    "adult": "adult adults adulthood grown".split(),
    "aged": "elderly old-age geriatric postmenopausal".split(),
}

SPECIES = {
    "human": "human humans homo-sapiens patient patients people person hsap".split(),
    "mouse": "mouse mice murine mus-musculus mmus".split(),
    "rat": "rat rats rattus".split(),
    "rodent": "rodent rodents".split(),
    "fish": "zebrafish danio fish teleost teleosts".split(),
    "fly": "drosophila fly flies insect insects".split(),
    "worm": "elegans nematode nematodes".split(),
    "frog": "xenopus frog frogs amphibian amphibians".split(),
    "bird": "chicken chick bird birds avian quail".split(),
    "pig": "pig pigs porcine swine".split(),
    "cow": "cow cattle bovine".split(),
    "dog": "dog dogs canine".split(),
    "cat": "feline cats".split(),
    "rabbit": "rabbit rabbits".split(),
    "monkey": "monkey monkeys macaque macaques rhesus marmoset chimpanzee baboon".split(),
    "primate": "primate primates".split(),
    "sheep": "sheep ovine".split(),
    "horse": "horse equine".split(),
    "plant": "plant plants arabidopsis".split(),
    "fungus": "yeast fungus fungi fungal".split(),
    "bacterium": "bacteria bacterium bacterial prokaryote prokaryotes".split(),
}

EXCLUSIVE = {"sex": SEXES, "stage": STAGES, "species": SPECIES}
"""Kinds of people and animals; a sentence names none that its evidence or profile does not."""

NEGATORS = frozenset(
    """not no never without lack lacks lacking lacked neither nor cannot unable incapable devoid absence absent fail fails
    failing failed lose loses losing lost loss hardly rarely seldom scarcely barely nt none missing
    avoid avoids avoiding void missing undetectable undetected negligible inability failure omit omits omitting forgo forgoes
    exclude excludes excluding""".split()
)
"""Words after which what follows is denied."""

CONTRAST = ("unlike", "rather than", "instead of", "other than", "in contrast to", "as opposed to")
"""What follows is said of something else, up to the next comma."""

SCOPE_ENDS = frozenset(
    ". ; : but while whereas although though however which who because since instead whose unless until once when if".split()
)

VERBS = frozenset(
    """is are was were has have can may it they this these does do will must should express expresses produce produces
    secrete secretes contain contains possess possesses carry carries display displays form forms give gives
    develop develops respond responds play plays act acts serve serves reside resides show shows lie lies retain retains
    bear bears differentiate differentiates kill kills release releases bind binds migrate migrates line lines make makes
    instead also therefore thus usually gain gains keep keeps lead leads result results cause causes""".split()
)
"""After "and" or a comma, these begin a statement of their own, which a denial does not reach."""

NEGATIVE_FORMS = {
    "anucleate": "nucleus",
    "anucleated": "nucleus",
    "enucleate": "nucleus",
    "enucleated": "nucleus",
    "acellular": "cellular",
    "avascular": "vascular",
    "agranular": "granule",
    "aspiny": "spine",
    "aspinous": "spine",
    "amotile": "motile",
    "asymmetric": "symmetric",
    "asymmetrical": "symmetrical",
    "immature": "mature",
    "inactive": "active",
    "immotile": "motile",
    "immobile": "mobile",
    "incomplete": "complete",
    "insoluble": "soluble",
    "independent": "dependent",
    "independently": "dependent",
    "irregular": "regular",
    "irregularly": "regular",
    "invisible": "visible",
    "insensitive": "sensitive",
    "indirect": "direct",
    "indirectly": "directly",
    "undetectable": "detectable",
    "unresponsive": "responsive",
    "unspecific": "specific",
    "abnormal": "normal",
    "dysfunctional": "functional",
    "incompetent": "competent",
    "inability": "ability",
    "unstable": "stable",
    "inefficient": "efficient",
    "inefficiently": "efficient",
}

NUMBERS = {
    word: float(value)
    for value, word in enumerate(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty""".split()
    )
} | {
    "thirty": 30.0,
    "forty": 40.0,
    "fifty": 50.0,
    "sixty": 60.0,
    "seventy": 70.0,
    "eighty": 80.0,
    "ninety": 90.0,
    "hundred": 100.0,
    "thousand": 1e3,
    "million": 1e6,
    "billion": 1e9,
    "dozen": 12.0,
    "half": 0.5,
    "quarter": 0.25,
    "twice": 2.0,
    "double": 2.0,
    "triple": 3.0,
    "first": 1.0,
    "second": 2.0,
    "third": 3.0,
    "fourth": 4.0,
    "fifth": 5.0,
    "sixth": 6.0,
    "seventh": 7.0,
    "eighth": 8.0,
    "both": 2.0,
    "pair": 2.0,
    "paired": 2.0,
    "dual": 2.0,
    "trio": 3.0,
    "i": 1.0,
    "ii": 2.0,
    "iii": 3.0,
    "iv": 4.0,
    "vi": 6.0,
}

UNIVERSAL = frozenset(
    "all every always invariably exclusively only solely uniquely entirely completely".split()
)
PARTIAL = frozenset(
    """some may can could might sometimes often usually typically subset occasionally few partly partially mainly mostly
    primarily generally commonly frequently many most several predominantly normally rarely approximately""".split()
)

ADJECTIVES = """
hepatic liver
renal kidney
nephric kidney
pulmonary lung
cardiac heart
cerebral brain
gastric stomach
intestinal intestine
enteric intestine
colonic colon
splenic spleen
thymic thymus
dermal skin
cutaneous skin
epidermal epidermis
ocular eye
retinal retina
pancreatic pancreas
ovarian ovary
testicular testis
prostatic prostate
uterine uterus
endometrial endometrium
placental placenta
vascular vessel
arterial artery
venous vein
nasal nose
oral mouth
buccal mouth
lingual tongue
tracheal trachea
bronchial bronchus
alveolar alveolus
esophageal esophagus
oesophageal esophagus
rectal rectum
adrenal adrenal gland
pituitary pituitary gland
hypophyseal pituitary gland
thyroid thyroid gland
mammary mammary gland
osseous bone
cartilaginous cartilage
tendinous tendon
muscular muscle
adipose adipose tissue
cortical cortex
medullary medulla
hippocampal hippocampus
cerebellar cerebellum
hypothalamic hypothalamus
thalamus thalamic complex
thalamic thalamic complex
hematopoietic blood
haematopoietic blood
striatal striatum
spinal spinal cord
cochlear cochlea
corneal cornea
conjunctival conjunctiva
vaginal vagina
cervical cervix
dental tooth
glomerular glomerulus
tubular tubule
ureteral ureter
urethral urethra
vesical bladder
biliary bile duct
duodenal duodenum
jejunal jejunum
ileal ileum
appendiceal appendix
tonsillar tonsil
pleural pleura
peritoneal peritoneum
pericardial pericardium
atrial atrium
ventricular ventricle
aortic aorta
umbilical umbilicus
amniotic amnion
chorionic chorion
neural nervous system
nodal lymph node
"""
"""Adjective of an organ, and its noun."""

_ANATOMY = """organ tissue structure surface body region layer system wall membrane process head matrix cavity space
tube fluid secretion substance material lining root tip line side base cluster section population zone area
compartment group lumen opening canal tract network sheet band fold crest ridge plate groove sulcus border
margin sac pouch follicle? segment portion organism anatomical entity whole organ? cell space? surface? process
cytoplasm nucleus bodies extension projection junction field island stalk neck shaft trunk? ring cap arm
center centre core capsule? part column? branch? spine? horn floor roof midline tip cord? axis pole apex crown
field? disc? unit germ layer interface boundary feather? shell collection set stage life cycle aggregate
upper lower left right lateral anterior posterior dorsal ventral medial substance? bodily fluid material
role all ion marking back spot pit face scale radial foot mechanoreceptor thermoreceptor chemoreceptor pore lamina
cuticle envelope appendage larva trunk sole valve isthmus flank pyramid orifice atlas aa4 ca2 fae dao dcn adult embryo
child infant cell vessel hand palm nail? set lobe lobule ball base branch bundle calf chin comb corpus crop cuboid facet
floor front helix honey joint loop lunar mole node pad plume quill radius res ridge shaft shield silk siphon
stem strand stripe temple vent wing wither claw sella? bar son tear? apex arch cement mantle ora primary
""".split()
SHORT_ANATOMY = frozenset("ear eye fat gum hip jaw leg lip rib toe gut".split())
"""Names in UBERON of three letters that are words and not abbreviations."""

GENERIC_ANATOMY = frozenset(word.rstrip("?") for word in _ANATOMY if not word.endswith("?"))
"""Names in UBERON that are everyday words."""

SUBSTANCES = frozenset(
    """glutamate aspartate calcium potassium sodium zinc iron copper magnesium phosphate sulfate bicarbonate carbonate
    gaba nitric heme haem cholesterol glucose fructose lactate pyruvate acetylcholine thyroxine cortisol
    triglyceride starch cellulose sebum cerumen bile surfactant chloride hydrochloric""".split()
)
"""Names of substances that do not end as such."""

ABBREVIATED = {
    "MHC class II": "MHCII",
    "MHC class I": "MHCI",
    "MHC-II": "MHCII",
    "MHC-I": "MHCI",
    "major histocompatibility complex class II": "MHCII",
    "major histocompatibility complex class I": "MHCI",
    "T cell receptor": "TCR",
    "T-cell receptor": "TCR",
    "B cell receptor": "BCR",
    "B-cell receptor": "BCR",
    "red cell": "red blood cell",
    "red cells": "red blood cells",
    "white cell": "white blood cell",
    "white cells": "white blood cells",
    "N-CAM": "NCAM1",
    "nitric oxide": "NO",
    "reactive oxygen species": "ROS",
    "haematopoietic": "hematopoietic",
    "hematopoeitic": "hematopoietic",
    "central nervous system": "CNS",
    "peripheral nervous system": "PNS",
    "extracellular matrix": "ECM",
    "cerebrospinal fluid": "CSF",
    "immunoglobulin G": "IgG",
    "immunoglobulin A": "IgA",
    "immunoglobulin E": "IgE",
    "immunoglobulin M": "IgM",
    "immunoglobulin D": "IgD",
}
"""Phrases that are read as their abbreviation, the longest first where one begins another."""

NOT_SUBSTANCES = frozenset(
    """within contain protein origin skin begin main certain margin vein brain remain line intestine bone one zone
    alone tone inside side provide control role outside beside increase decrease release disease phase base case
    increase purpose grease nose rose close loose cause because chain obtain retain maintain sustain explain pain grain
    fine define determine combine refine machine medicine spine routine genuine examine marine feline bovine canine urine
    murine equine porcine ovine gene antigen pathogen alien stage wide include divide reside decide guide
    hide ride outline baseline midline streamline vaccine endocrine exocrine paracrine autocrine gland
    chemokine cytokine hormone enzyme neurotransmitter amine peptide lipid glycoprotein join coin attain again
    domain thin twin bin pin sin win spin basin cabin robin
    someone none cone milestone done gone stone phone prone clone everyone hematopoietin database increase
    phrase erase lease please tease ease crease cease nine decline incline vine wine mine shine refine dine
    contain pertain curtain mountain fountain villain train strain drain plain stain gain
    strain skein linen amide nucleotide oxide side tide inside countryside
    submarine masculine feminine alkaline crystalline saline pristine turbine engine imagine intertwine
    undergone germline eosin hyaline metaphase interphase prophase anaphase telophase holocrine merocrine apocrine
    amacrine chaperone anemone cobblestone foreskin neuroendocrine enteroendocrine hematoxylin
    crine entwine margin origin therein herein wherein ruin resin cousin""".split()
)
"""Words that end as the names of proteins, hormones and other substances do, and name none."""
