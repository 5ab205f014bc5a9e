"""Where sentences end, in any language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime import sentences
from services.runtime.sentences import sentence_spans, split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        [],
        ["One"],
        ["It runs.", "It stops!", "Does it?", "Yes."],
        ["It costs 3.5 bar.", "7 were sold."],
        ['He said "Stop."', "Then he left."],
        ["Fruit, e.g. Apples, is good."],
        ["Dr. Smith met J. Doe at St. Mary.", "They left."],
        ["Wait...", "What?"],
        ["It is approx. 5 m. long.", "It weighs 30 kg.", "The rest is 4 °C."],
        ["The wall is 5 m.", "The gate is 3 m."],
        ["The contract ends on Jan. 5, 2026 at noon.", "See p. 12 for terms.", "Der Vertrag endet am 3. Mai 2026."],
        ["The limit of No. 7 Co. Ltd. is 9.", "See Fig. 3 of vol. 2."],
        ["Prof. Dr. Müller kam um 5 Uhr.", "Er blieb bis zum 12. März.", "Überall gilt 7.", "Österreich hat 9."],
        ["État : prêt.", "Élodie pèse 60 kg.", "Ça suffit !", "Vraiment ?"],
        ["保修期为两年。", "电池容量是5000毫安。", "重量为180克！", "真的吗？"],
        ["これはペンです。", "猫が好きですか？", "はい。"],
        ["Он родился в 1820 г. в Москве.", "Потом он уехал.", "Куда?"],
        ["ذهب الولد إلى المدرسة.", "هل عاد؟", "نعم."],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ["1. Stop the writer.", "2. Copy the archive.", "3. Start it."],
        ["Title", "Text goes on.", "More"],
    ],
)
@pytest.mark.parametrize("between", [" ", "\n", "\n\n"])
def test_sentences(sentences: list[str], between: str) -> None:
    if sentences[:1] == ["Title"] and between == " ":
        return  # only a line's end tells
    assert split_sentences(between.join(sentences)) == sentences


@pytest.mark.parametrize(
    "sentence",
    [
        "Родился А. С. Пушкин в Москве.", "Родился А.С. Пушкин в Москве.", "Он умер в 1991 г. В Москве было холодно.",
        "На ул. Ленина стоит дом.", "Это сказал акад. Павлов.", "Дж. Буш уехал.", "Будинок на вул. Шевченка біля річки.",
        "Ο Κ. Π. Καβάφης ήταν εδώ.", "Ο κ. Παπαδόπουλος ήρθε.", "डॉ. शर्मा आये।", "निकोलस ई. गोलोविन आये।", "قال د. محمد ذلك.",
        "La Sra. López vino.", "En EE. UU. hay 50.", "Il Sig. Rossi venne.", "Mlle. Rose vint.", "Mieszka na ul. Długiej.",
        "Im 19. Jahrhundert war es so.", "Das 19. und 20. Jahrhundert waren so.", "Zu seinem 50. Geburtstag kam er.",
        "Sie geht in die 5. Klasse.", "Die Schiller Str. 5 ist da.", "Vom 3. 4. bis 5. 6. 2024 war es so.",
        "On 12. 05. 2024 we met.", "It takes approx. Five days.", "We waited ... Peter said no.", "We waited . . . Peter said no.",
        "See www.Example.Com now.", "Open file.Txt now.", "เกิดในปีค.ศ.1855 ที่นี่",
        "He gave z.B. Nr. 5 to the U.S. Army and e.g. Peter at 5 p.m. today.", "J. R. R. Tolkien wrote 3.14 books.",
    ],
)  # fmt: skip
def test_what_ends_no_sentence(sentence: str) -> None:
    assert split_sentences(sentence) == [sentence]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Он весит 60 кг.", "Потом он ушёл."), ("Сила тока 20 А.", "Потом она росла."), ("Скорость 10 Гбит/с.", "В октябре она росла."),
        ("Это стоит 5 руб.", "Потом он ушёл."), ("Это редкий вид.", "Он живёт здесь."), ("The link has 10 Gbit/s.", "In May it had 5."),
        ("I am 19.", "Then he left."), ("Er war 19.", "Dann ging er."), ("Er kam auf Platz 3.", "Danach schlief er."),
        ("The year was 1991.", "He left."), ("Er ging zum Dom.", "Dann kam sie."), ("Er ging in die Bar.", "Dann kam sie."),
        ("The time is odd .", "The text is translated."), ("Wait...", "Peter said no."), ("Er kam an.", "Danach schlief er."),
        ("She is with Max.", "She left."), ("यह एक वाक्य है.", "यह दूसरा है."),
    ],
)  # fmt: skip
def test_what_looks_like_an_abbreviation_and_ends_a_sentence(first: str, second: str) -> None:
    assert split_sentences(f"{first} {second}") == [first, second]


def test_ends_need_no_white_space_where_a_language_has_none() -> None:
    assert split_sentences("保修期为两年。电池容量是5000毫安。") == ["保修期为两年。", "电池容量是5000毫安。"]
    assert split_sentences("保修期为两年.电池容量大.") == ["保修期为两年.", "电池容量大."]


@given(
    st.text(
        st.sampled_from("Ab1 .!?\"')]([\n\r\té。！?؟\u2028\x0c") | st.characters(exclude_categories=["Cs"]), max_size=60
    )
)
def test_sentences_join_to_the_text(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(b > a for a, b in spans)


def test_a_long_line_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "".join(f"Dr. Smith counts {i} boats on Jan. {i % 28 + 1}. Er zählt z. B. drei Kähne! " for i in range(300))
    whole = split_sentences(line)
    assert len(whole) == 600
    for part in (1, 100, 1000):
        monkeypatch.setattr(sentences, "PART_CHARACTERS", part)
        assert split_sentences(line) == whole
