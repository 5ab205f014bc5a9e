"""Sentence forms of made-up facts: ``statement | question | question``, one form a line.

A slot is a letter and maybe a digit; the same slot has the same text in statement and questions. {E}, {N}: a
name or a noun phrase; {P}: a person's name; {w}: a noun; {a}: an adjective; {c}: a colour; {m}: a month; {Y}: a
year; {d}: a day of the month; {n}: a number; {u}: a unit; {t}: a time of day; {v}: an environment variable;
{p}: a path; {o}: a command's option; {k}: a command; {r}: a version number.
"""

from __future__ import annotations

Form = tuple[str, tuple[str, ...]]


def listed(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def _parse(text: str) -> list[Form]:
    lines = (line.split(" | ") for line in text.strip().splitlines())
    return [(statement, tuple(questions)) for statement, *questions in lines]


FACTS = _parse("""
The capital of {E} is {N}. | What is the capital of {E}? | Which city is the capital of {E}?
{E} was founded in {Y} by {P}. | Who founded {E}? | When was {E} founded? | In which year was {E} founded?
The height of {E} is {n} {u}. | What is the height of {E}? | How high is {E}?
{E} lies on the river {N}. | On which river does {E} lie? | Which river does {E} lie on?
The colour of the {E} flag is {c}. | What is the colour of the {E} flag? | Which colour does the {E} flag have?
{P} works as a {w} in {N}. | Where does {P} work? | What does {P} do for work? | As what does {P} work?
The director of {E} is {P}. | Who is the director of {E}? | Who directs {E}?
{E} opened on {d} {m} {Y}. | When did {E} open? | On which day was {E} opened?
The main export of {E} is {w}. | What is the main export of {E}? | What does {E} mainly export?
{E} has a population of {n}. | What is the population of {E}? | How many people live in {E}?
The password for {E} is {w}. | What is the password for {E}? | Which password does {E} need?
{E} costs {n} {u} per {w}. | How much does {E} cost? | What does {E} cost per {w}? | What is the price of {E}?
In {Y} {P} won the {w} prize. | Which prize did {P} win? | When did {P} win the {w} prize? | Who won the {w} prize?
{E} stores its {w} in {N}. | Where does {E} store its {w}? | In what does {E} store its {w}? | What does {E} store in {N}?
The default port of {E} is {n}. | What is the default port of {E}? | Which port does {E} use? | On which port does {E} listen?
{E} is made of {w} and {w2}. | What is {E} made of? | Of what is {E} made?
The owner of the {w} is {P}. | Who is the owner of the {w}? | Who owns the {w}?
{P} plays the {w} every {d} days. | What does {P} play? | How often does {P} play the {w}?
To start {E}, press the {c} {w}. | How do I start {E}? | What must be pressed to start {E}? | How is {E} started?
{E} retries a failed {w} after {n} {u}. | When does {E} retry a failed {w}? | After how long does {E} retry?
The {w} of {E} was built by {P}. | Who built the {w} of {E}? | By whom was the {w} of {E} built?
{P} speaks {N} and a little {N2}. | What does {P} speak? | Which languages does {P} speak?
The oldest {w} in {E} is {N}. | What is the oldest {w} in {E}? | Which {w} in {E} is the oldest?
{P} was born in {N} in {Y}. | Where was {P} born? | When was {P} born? | In which year was {P} born?
{P} died in {Y} near {N}. | When did {P} die? | Where did {P} die?
{P} keeps a {c} {w} in the {w2}. | What does {P} keep in the {w2}? | Where does {P} keep the {w}?
The {E} bridge is {n} {u} long. | How long is the {E} bridge? | What is the length of the {E} bridge?
{P} discovered {N} while studying {w}. | Who discovered {N}? | What did {P} discover? | What was {P} studying when {N} was discovered?
Every {w} in {E} must carry a {w2}. | What must every {w} in {E} carry? | Who must carry a {w2} in {E}?
{E} sends its logs to the {w}. | Where does {E} send its logs? | Where do the logs of {E} go?
The limit for {E} is {n} {w} per minute. | What is the limit for {E}? | How many {w} per minute may {E} have?
{E} is the largest {w} in {N}. | What is the largest {w} in {N}? | Where is {E} the largest {w}?
{E} are deleted after {n} {u}. | When are {E} deleted? | After how long are {E} deleted? | How long until {E} are deleted?
The {w} of {E} expires on {d} {m}. | When does the {w} of {E} expire? | On what date does the {w} of {E} expire?
A backup of {E} is taken every {n} {u}. | How often is a backup of {E} taken? | How often is {E} backed up?
{v} sets the {w} of {E}. | Which variable sets the {w} of {E}? | What does {v} set?
Run {k} to start {E}. | How do I start {E}? | Which command starts {E}? | What does {k} start?
{k} removes every {w} from {E}. | What does {k} remove? | How do I remove every {w} from {E}?
The code that checks {E} is in {p}. | Where is the code that checks {E}? | Which file checks {E}? | What is in {p}?
{E} reads its settings from {p} at boot. | Where does {E} read its settings from? | When does {E} read its settings?
With {o}, {E} prints the {w} as well. | What does {o} do? | Which option prints the {w}? | How does {E} print the {w}?
{E} needs at least {n} {u} of {w}. | How much {w} does {E} need? | What does {E} need at least?
Version {r} of {E} removed the {w}. | Which version removed the {w}? | What did version {r} of {E} remove?
{E} listens on port {n} for {w} requests. | On which port does {E} listen? | What does {E} listen for on port {n}?
If the {w} is missing, {E} stops with an error. | What happens if the {w} is missing? | When does {E} stop with an error?
{E} refuses a {w} that is larger than {n} {u}. | What does {E} refuse? | How large may a {w} of {E} be? | When does {E} refuse a {w}?
Passwords for {E} must have at least {n} letters. | How long must passwords for {E} be? | How many letters must passwords for {E} have?
The {w} is signed because {E} does not trust {N}. | Why is the {w} signed? | Whom does {E} not trust?
{E} caches each {w} for {n} {u}. | How long does {E} cache each {w}? | What does {E} cache?
Only {P} may change the {w} of {E}. | Who may change the {w} of {E}? | What may only {P} change?
When {E} is full, the oldest {w} is dropped. | What happens when {E} is full? | What is dropped when {E} is full? | When is the oldest {w} dropped?
{E} writes its {w} to {p}. | Where does {E} write its {w}? | To which file does {E} write its {w}? | What does {E} write to {p}?
The {w} service talks to {E} over {N}. | How does the {w} service talk to {E}? | Which service talks to {E}?
{E} was renamed to {N} in version {r}. | What was {E} renamed to? | In which version was {E} renamed? | What is the new name of {E}?
Each {w} of {E} has {n} {w2}. | How many {w2} does each {w} of {E} have? | What does each {w} of {E} have?
{E} supports {w}, {w2} and {w3}. | What does {E} support? | What is supported by {E}?
The train from {E} to {N} takes {n} {u}. | How long does the train from {E} to {N} take? | How long is the trip from {E} to {N}?
The train to {E} leaves from platform {d}. | From which platform does the train to {E} leave? | Where does the train to {E} leave?
{P} wrote {N} in {Y}. | Who wrote {N}? | When did {P} write {N}? | What did {P} write?
{N} was painted by {P} in {E}. | Who painted {N}? | Where was {N} painted?
The {w} factory in {E} employs {n} people. | How many people does the {w} factory in {E} employ? | What is the number of people at the {w} factory in {E}?
{E} borders {N} in the north. | What does {E} border in the north? | Which country borders {E} in the north?
The official language of {E} is {N}. | What is the official language of {E}? | Which language do people speak in {E}?
The currency of {E} is the {w}. | What is the currency of {E}? | Which currency is used in {E}?
{P} is the mayor of {E}. | Who is the mayor of {E}? | Of what is {P} the mayor?
{P} studied {w} at the {N} school. | What did {P} study? | Where did {P} study {w}? | Who studied {w} at the {N} school?
The mother of {P} was {N}. | Who was the mother of {P}? | What was the name of {P}'s mother?
{P} scored {n} points against {N}. | How many points did {P} score against {N}? | Against whom did {P} score?
{E} beat {N} by {n} goals. | Who beat {N}? | By how many goals did {E} beat {N}? | Whom did {E} beat?
The final of {E} was played in {N}. | Where was the final of {E} played? | What was played in {N}?
Bake the {w} for {n} minutes at {d} degrees. | How long should the {w} be baked? | How do I bake the {w}?
Add the {w} before the {w2} boils. | When do I add the {w}? | What is added before the {w2} boils?
{E} eats mostly {w} and {w2}. | What does {E} eat? | What is the food of {E}?
The {a} {w} lives in the forests of {N}. | Where does the {a} {w} live? | What lives in the forests of {N}?
{E} lays up to {n} eggs a year. | How many eggs does {E} lay? | How many eggs a year does {E} lay?
{w} melts at {n} degrees. | At what temperature does {w} melt? | When does {w} melt?
The {w} tower has {n} floors. | How many floors does the {w} tower have? | What has {n} floors?
{E} sank near {N} in {Y}. | Where did {E} sink? | When did {E} sink? | In which year did {E} sink?
The law forbids {w} in {E}. | What does the law forbid in {E}? | Where does the law forbid {w}?
A fine of {n} euros is due for {w} in {E}. | What is the fine for {w} in {E}? | How much is due for {w} in {E}?
Rent for {E} is due on day {d} of each month. | When is the rent for {E} due? | On which day is the rent for {E} due?
The {w} clinic is closed on {m} {d}. | When is the {w} clinic closed? | What is closed on {m} {d}?
{E} opens at {t} and closes at {t2}. | When does {E} open? | At what time does {E} close? | Until when is {E} open?
The meeting about {w} starts at {t} in room {n}. | When does the meeting about {w} start? | Where is the meeting about {w}? | In which room is the meeting about {w}?
{P} replaced {N} as head of {E}. | Who replaced {N}? | Who is the head of {E}? | Whom did {P} replace?
{P} sold {E} to {N} for {n} euros. | Who sold {E}? | To whom did {P} sell {E}? | For how much was {E} sold?
{E} is run by {N} from {P}. | Who runs {E}? | By whom is {E} run?
The symbol of {E} is a {c} {w}. | What is the symbol of {E}? | Which symbol does {E} have?
{E} means {w} in the {N} language. | What does {E} mean? | What is the meaning of {E} in the {N} language?
The engine of {E} runs on {w}. | What does the engine of {E} run on? | On what does the engine of {E} run?
{E} has a top speed of {n} {u} an hour. | What is the top speed of {E}? | How fast is {E}?
{E} weighs {n} {u}. | How much does {E} weigh? | How heavy is {E}? | What is the weight of {E}?
The battery of {E} lasts {n} {u}. | How long does the battery of {E} last? | What is the battery life of {E}?
The lamp on {E} turns {c} when the {w} is low. | What happens when the {w} is low? | When does the lamp on {E} turn {c}? | Which colour does the lamp on {E} show when the {w} is low?
{E} connects {N} with {N2}. | What does {E} connect? | What connects {N} with {N2}?
{E} ends where the {w} begins. | Where does {E} end? | What begins where {E} ends?
Nobody has seen {E} since {Y}. | Since when has nobody seen {E}? | When was {E} last seen?
{E}, a {w} from {N}, is {a}. | Where does {E} come from? | What is {E}? | How is {E} described?
There are {n} {w} in {E}. | How many {w} are there in {E}? | How many {w} does {E} have?
The {w} that {P} bought was {a}. | How was the {w} that {P} bought? | What did {P} buy? | Who bought the {w}?
It was {P} who stole the {w}. | Who stole the {w}? | What did {P} steal?
{P} gave the {w} to {N}. | To whom did {P} give the {w}? | Who gave the {w} to {N}? | What did {P} give to {N}?
{P} asked {N} for a {w}. | Who asked {N} for a {w}? | What did {P} ask {N} for? | Whom did {P} ask for a {w}?
{E} does not accept {w} as payment. | What does {E} not accept? | What is not accepted as payment at {E}?
{E} is written in {N} and {N2}. | In which language is {E} written? | What is {E} written in?
The test of {E} fails when {w} is {a}. | When does the test of {E} fail? | Why does the test of {E} fail?
{E} is slower than {N} since it checks every {w}. | Why is {E} slower than {N}? | What does {E} check?
An error in {E} is reported to {P}. | To whom is an error in {E} reported? | Who is told about an error in {E}?
{E} gives each {w} a number of its own. | What does {E} give each {w}? | What has a number of its own in {E}?
Use {N} instead of {E}. | What should be used instead of {E}? | What replaces {E}?
{E} waits {n} {u} for a {w} before it gives up. | How long does {E} wait for a {w}? | What does {E} do after {n} {u}? | When does {E} give up?
The token of {E} is kept in {v}. | Where is the token of {E} kept? | What does {v} hold?
Set {v} to {n} to make {E} faster. | How can {E} be made faster? | What should {v} be set to?
By default {E} keeps {n} {w}. | How many {w} does {E} keep by default? | What does {E} keep by default?
""")  # noqa: E501
# Sentence forms that training never sees; their verbs and relations are not among those above.
FACTS_HELD_OUT = _parse("""
The village of {E} is known for its {w}. | What is the village of {E} known for? | For what is the village of {E} known?
{P} teaches {w} at the university of {N}. | What does {P} teach at the university? | Who teaches {w} at the university of {N}?
The {w} museum in {E} shows {n} {w2}. | What does the {w} museum in {E} show? | How many {w2} does the {w} museum in {E} show?
{E} carries up to {n} passengers. | How many passengers does {E} carry? | How many passengers can travel in {E}?
Visitors reach {E} by {w}. | How do visitors reach {E}? | What do visitors take to reach {E}?
{P} became captain of {E} in {Y}. | Who became captain of {E}? | When did {P} become captain?
{P} married a {w} from {N}. | Whom did {P} marry? | Who married a {w} from {N}?
The roof of {E} is covered with {w}. | What is the roof of {E} covered with? | With what is the roof of {E} covered?
Audit logs of {E} are kept for {n} {u}. | How long are audit logs of {E} kept? | For how long are the audit logs of {E} kept?
{P} invented the {w} during a stay in {N}. | Who invented the {w}? | Where was {P} when the {w} was invented? | What did {P} invent?
The harvest in {E} begins in {m}. | When does the harvest in {E} begin? | In which month does the harvest in {E} begin?
Guests of {E} receive a free {w}. | What do guests of {E} receive? | What is free for guests of {E}?
{E} measures the {w} with a {w2}. | How does {E} measure the {w}? | What does {E} measure?
Members of {E} vote every {n} {u}. | How often do members of {E} vote? | Who votes every {n} {u}?
The {w} orchestra rehearses in {E}. | Where does the {w} orchestra rehearse? | Who rehearses in {E}?
Lessons at {E} take place on the {w} floor. | Where do lessons at {E} take place? | What takes place on the {w} floor?
{P} repaired the {w} of {E} in {n} {u}. | Who repaired the {w} of {E}? | How long did {P} need to repair the {w} of {E}?
Doctors prescribe {E} against {w}. | Against what do doctors prescribe {E}? | What do doctors prescribe against {w}?
The {w} team trains with {P}. | With whom does the {w} team train? | Which team trains with {P}?
Goods for {E} are shipped through {N}. | Through which place are goods for {E} shipped? | How are goods for {E} shipped?
{E} shares a wall with the {w} shop. | What does {E} share with the {w} shop? | With which shop does {E} share a wall?
A guard watches {E} at night. | Who watches {E} at night? | When does a guard watch {E}?
The contract with {E} ends in {m} {Y}. | When does the contract with {E} end? | Which contract ends in {m} {Y}?
{P} translated {E} into {N}. | Who translated {E}? | Into what did {P} translate {E}?
Two sensors of {E} control the {w}. | What controls the {w}? | What do two sensors of {E} control?
Tickets for {E} are sold at the {w}. | Where are tickets for {E} sold? | What is sold at the {w}?
Traffic to {E} is encrypted with {N}. | How is traffic to {E} encrypted? | With what is traffic to {E} encrypted?
The scheduler of {E} restarts a crashed {w} within {n} {u}. | How soon does the scheduler of {E} restart a crashed {w}? | What restarts a crashed {w} in {E}?
Requests beyond the quota of {E} get status {n}. | Which status do requests beyond the quota of {E} get? | What happens to requests beyond the quota of {E}?
The {k} command compresses the {w}. | Which command compresses the {w}? | What does the {k} command compress?
{v} limits how many {w} run at once. | Which variable limits how many {w} run at once? | What does {v} limit?
Certificates of {E} are rotated by {N}. | What rotates the certificates of {E}? | Who rotates certificates of {E}?
The dashboard of {E} refreshes every {n} {u}. | How often does the dashboard of {E} refresh? | What refreshes every {n} {u}?
{E} verifies each {w} against a checksum. | What does {E} verify? | Against what does {E} verify each {w}?
Replicas of {E} are spread over {n} zones. | Over how many zones are replicas of {E} spread? | How are replicas of {E} spread?
The {w} plugin for {E} lives in {p}. | Where does the {w} plugin for {E} live? | Which plugin lives in {p}?
{P} inherited the {w} from {N}. | From whom did {P} inherit the {w}? | Who inherited the {w}? | What did {P} inherit from {N}?
{E} produces {n} {u} of {w} a day. | How much {w} does {E} produce a day? | What does {E} produce?
Children under {d} enter {E} free of charge. | Who enters {E} free of charge? | At what age do children enter {E} free of charge?
The winter in {E} lasts {n} {u}. | How long does the winter in {E} last? | What lasts {n} {u} in {E}?
Fishermen in {E} catch {w} with {w2}. | What do fishermen in {E} catch? | How do fishermen in {E} catch {w}?
The jury awarded {P} the {w} medal. | Which medal did the jury award {P}? | Whom did the jury award the {w} medal?
{P} hid the {w} under the {w2}. | Where did {P} hide the {w}? | Who hid the {w}? | What did {P} hide under the {w2}?
Because of the {w}, {E} moved to {N}. | Why did {E} move? | Where did {E} move because of the {w}?
A storm destroyed the {w} of {E} in {Y}. | What destroyed the {w} of {E}? | When was the {w} of {E} destroyed?
Stir the {w} until it turns {c}. | How long should I stir the {w}? | Until when do I stir the {w}?
The {E} glacier shrinks by {n} {u} a year. | By how much does the {E} glacier shrink? | How fast does the {E} glacier shrink?
Employees of {E} may work from {N}. | From where may employees of {E} work? | Who may work from {N}?
""")  # noqa: E501

# Verbs for sentences that the grammar makes: base, past, participle (where not regular).
FRAMES = (
    "Note that {s}", "According to {N}, {s}", "In general {s}", "As of {Y}, {s}", "Today {s}", "For the {w}, {s}", "However, {s}",
    "In other words, {s}", "Unlike the {w}, {s}", "It is known that {s}", "{P} says that {s}", "Since the {w}, {s}",
)  # fmt: skip
