"""Questions: right answers, choices that give nothing away, and none of them told in another split."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from statistics import mean

import pytest

from edgekit import corpus
from edgekit.corpus import exercises, ranger, tables

COUNT = 2600
TABLED = ("factual", "conservation")


@cache
def asked(domain: str) -> tuple[corpus.Item, ...]:
    return corpus.items("evaluation", domain, count=COUNT)


@cache
def told(split: corpus.Split, domain: str) -> frozenset[str]:
    """Every line of a whole pass, drawn with another seed."""
    return frozenset(line for page in corpus.documents(split, domain, seed=2) for line in page.splitlines())


def question(line: str) -> str:
    """What is asked, however it is to be answered."""
    return re.split(r" Answer[^:]*:", line)[0]


def known(fact_of: str, attribute: str) -> str:
    for domain in TABLED:
        if fact_of in tables.subjects(domain):
            return tables.subjects(domain)[fact_of][attribute].value
    raise AssertionError(fact_of)


@pytest.mark.slow
@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_no_evaluation_question_is_told_elsewhere(domain: str) -> None:
    held_out = {question(item.line) for item in asked(domain)}
    assert len({item.id for item in asked(domain)}) == len({item.line for item in asked(domain)}) == COUNT
    for split in ("train", "calibration"):
        assert not held_out & {question(line) for line in told(split, domain) if " Answer" in line}
        assert not {item.line for item in asked(domain)} & told(split, domain)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [domain for domain in corpus.DOMAINS if domain not in TABLED])
def test_the_operands_of_evaluation_stand_in_no_other_question_of_their_kind(domain: str) -> None:
    """In whatever words: numbers, names and code of the question, without the small words around them. Facts of tables
    are taught in other words: that is their point.
    """

    def operands(item: corpus.Item) -> tuple[str, ...]:
        words = question(item.line).split("`")[1::2] or re.findall(r"\d+:?\d*", question(item.line))
        return (item.template.removesuffix("-short"), *sorted(words))

    drawn = {"two-steps", "sum", "difference", "share", "product", "larger", "sequence", "clock", "order", "parity"}
    kinds = drawn if domain == "reasoning" else {item.template for item in asked(domain)}
    held_out = {operands(item) for item in asked(domain) if item.template.removesuffix("-short") in kinds}
    trained = {operands(item) for item in corpus.items("train", domain, count=6000)}
    assert len(held_out) > 1000
    if domain == "reasoning":  # 3 + 4 - 2 and 4 + 3 - 2 are one exercise, 2 + 3 - 4 another with the same numbers
        held_out = {found for found in held_out if found[0] != "two-steps"}
    assert not held_out & trained


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_every_template_of_evaluation_is_taught(domain: str) -> None:
    templates = {item.template for item in asked(domain)}
    assert len(templates) >= 12
    assert sum(name.endswith("-short") for name in templates) >= 2
    assert templates == {item.template for item in corpus.items("train", domain, count=1500)}


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_items_are_whole(domain: str) -> None:
    for item in asked(domain):
        assert item.prompt == item.prompt.strip()
        assert item.answer == item.answer.strip() != ""
        assert "\n" not in item.line
        assert "{" not in item.line or domain == "coding"
        if item.mode == "choice":
            assert item.choices.count(item.answer) == 1
            assert len(set(item.choices)) == len(item.choices) >= 2
            assert item.chance == 1 / len(item.choices)
        else:
            assert item.choices == ()
            assert item.chance == 0
            assert item.template.endswith("-short")


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_a_template_has_one_chance_level(domain: str) -> None:
    levels: dict[str, set[float]] = {}
    for item in asked(domain):
        levels.setdefault(item.template, set()).add(item.chance)
    assert {template: len(found) for template, found in levels.items()} == dict.fromkeys(levels, 1)


def blind(item: corpus.Item, habits: Counter[tuple[str, str]]) -> dict[str, str]:
    """What strategies pick that see the choices and not the question."""
    numbers = sorted(item.choices, key=lambda choice: int("".join(re.findall(r"^-|\d", choice)).strip("-") or 0))
    return {
        "shortest": min(item.choices, key=lambda choice: (len(choice), choice)),
        "longest": max(item.choices, key=lambda choice: (len(choice), choice)),
        "alphabet": min(item.choices),
        "smallest": numbers[0],
        "middle": numbers[len(numbers) // 2],
        "largest": numbers[-1],
        "last": item.choices[-1],
        "habit": max(item.choices, key=lambda choice: habits[item.template, choice]),
    }


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_choices_alone_tell_no_more_than_chance(domain: str) -> None:
    habits = Counter((item.template, item.answer) for item in corpus.items("train", domain, count=4000))
    choices = [item for item in asked(domain) if item.mode == "choice"]
    chance = mean(item.chance for item in choices)
    picks = [blind(item, habits) for item in choices]
    for strategy in picks[0]:
        right = mean(pick[strategy] == item.answer for pick, item in zip(picks, choices, strict=True))
        assert abs(right - chance) < 0.04, (strategy, right, chance)


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_short_answers_are_hard_to_guess(domain: str) -> None:
    habits: dict[str, Counter[str]] = {}
    for item in corpus.items("train", domain, count=3000):
        habits.setdefault(item.template, Counter())[item.answer] += 1
    short = [item for item in asked(domain) if item.mode == "generate"]
    assert len(short) > 150
    for template in {item.template for item in short}:
        own = [item for item in short if item.template == template]
        usual = habits[template].most_common(1)[0][0]
        assert mean(item.answer == usual for item in own) < 0.12, template
        assert mean(item.answer in item.prompt for item in own) < 0.25, template


@pytest.mark.parametrize("item", [item for item in asked("coding") if " and `" not in item.prompt][:400], ids=str)
def test_coding_answers_are_what_python_gives(item: corpus.Item) -> None:
    (code,) = re.findall(r"`([^`]*)`", item.prompt) if not item.prompt.startswith("After") else ("",)
    if not code:
        statement, expression = re.findall(r"`([^`]*)`", item.prompt)
        scope: dict[str, object] = {}
        exec(statement, scope)
        assert repr(eval(expression, scope)) == item.answer
    elif item.template == "error":
        with pytest.raises(Exception) as failure:  # which one is the question
            eval(code)
        assert type(failure.value).__name__ == item.answer
    else:
        assert repr(eval(code.removeprefix("print(").removesuffix(")") if "print(" in code else code)) == item.answer


def test_loops_end_where_python_ends_them() -> None:
    loops = [item for item in asked("coding") if " and `" in item.prompt]
    assert len(loops) > 100
    for item in loops:
        *statements, expression = re.findall(r"`([^`]*)`", item.prompt)
        scope: dict[str, object] = {}
        exec("\n".join(statements), scope)
        assert repr(eval(expression, scope)) == item.answer, item.line


def test_reasoning_answers_are_right() -> None:
    checked = Counter()
    for item in asked("reasoning"):
        template = item.template.removesuffix("-short")
        assert item.answer == SOLVERS[template](item.prompt), item.line
        checked[template] += 1
    assert set(checked) == set(SOLVERS)
    assert min(checked.values()) > 30


def numbers(prompt: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", prompt)))


def chain(prompt: str) -> str:
    pairs = re.findall(r"(\w+) is (?:taller|older) than (\w+)", prompt)
    above, below = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    (answer,) = below - above if re.search("shortest|youngest", prompt) else above - below
    return answer


def queue(prompt: str) -> str:
    names = re.split(", | and ", prompt.split(" stand")[0])
    return names[("first", "second", "third", "fourth").index(re.search(r"Who is (\w+)", prompt)[1])]


def day(prompt: str) -> str:
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    today, (count,) = days.index(re.search(r"Today is (\w+)", prompt)[1]), numbers(prompt)
    return days[(today + (count if " in " in prompt else -count)) % 7]


def clock(prompt: str) -> str:
    hours, minutes, walked = numbers(prompt)
    return f"{(hours * 60 + minutes + walked) // 60:02d}:{(minutes + walked) % 60:02d}"


def direction(prompt: str) -> str:
    ways = ("north", "east", "south", "west")
    facing = ways.index(re.search(r"faces (\w+)", prompt)[1])
    for turn in re.findall(r"turns (\w+)", prompt):
        facing += {"right": 1, "around": 2, "left": -1}[turn]
    return ways[facing % 4]


def syllogism(prompt: str) -> str:
    rule, asked_colour = re.search(r"(?:are|is) (\w+)\.", prompt)[1], re.search(r"Is it (\w+)\?", prompt)[1]
    if prompt.startswith("All"):
        return "yes" if rule == asked_colour else "no"
    return "no" if prompt.startswith("None") and rule == asked_colour else "not known"


SOLVERS = {
    "sum": lambda prompt: str(sum(numbers(prompt))),
    "difference": lambda prompt: str(max(numbers(prompt)) - min(numbers(prompt))),
    "product": lambda prompt: str(numbers(prompt)[0] * numbers(prompt)[1]),
    "share": lambda prompt: str(numbers(prompt)[0] // numbers(prompt)[1]),
    "two-steps": lambda prompt: str(numbers(prompt)[0] + numbers(prompt)[1] - numbers(prompt)[2]),
    "larger": lambda prompt: str((max if "larger" in prompt else min)(numbers(prompt))),
    "parity": lambda prompt: ("even", "odd")[sum(numbers(prompt)) % 2],
    "order": lambda prompt: ", ".join(map(str, sorted(numbers(prompt), reverse="largest first" in prompt))),
    "chain": chain,
    "queue": queue,
    "sequence": lambda prompt: str(2 * numbers(prompt)[-1] - numbers(prompt)[-2]),
    "day": day,
    "clock": clock,
    "direction": direction,
    "syllogism": syllogism,
}


def test_direct_answers_stand_in_the_tables_and_wrong_ones_cannot_be_true() -> None:
    checked = 0
    for domain in TABLED:
        attributes = {fact.attribute for fact in tables.facts(domain)}
        for item in asked(domain):
            attribute = item.template.removesuffix("-short").removesuffix("-reversed")
            if attribute not in attributes:
                continue
            named = [fact for fact in tables.facts(domain) if fact.attribute == attribute and tells(fact, item)]
            assert len(named) == 1, item.line
            checked += 1
            for choice in item.choices:
                others = [
                    fact
                    for fact in tables.facts(domain)
                    if fact.attribute == attribute and choice in (fact.subject, fact.value) and choice != item.answer
                ]
                assert any(tables.exclusive(named[0], fact) for fact in others) or choice == item.answer, item
    assert checked > 1200


def tells(fact: tables.Fact, item: corpus.Item) -> bool:
    given, answer = (fact.value, fact.subject) if "-reversed" in item.template else (fact.subject, fact.value)
    return item.answer == answer and re.search(rf"(?<![\w-]){re.escape(given)}(?![\w-])", item.prompt) is not None


def test_exactly_one_of_the_named_has_what_is_asked_for() -> None:
    checked = 0
    for item in (*asked("factual"), *asked("conservation")):
        if item.template.startswith("which-"):
            attribute = item.template.removeprefix("which-")
            right = [name for name in item.choices if f" {known(name, attribute)}" in item.prompt.split(":")[0]]
            assert right == [item.answer], item.line
        elif item.template == "odd-one":
            home = known(next(name for name in item.choices if name != item.answer), "continent")
            assert [name for name in item.choices if known(name, "continent") != home] == [item.answer]
            assert f"not in {home}:" in item.prompt
        elif item.template == "same-continent":
            a, b = re.search(r"Are (.+) and (.+) in the", item.prompt).groups()
            assert item.answer == ("yes" if known(a, "continent") == known(b, "continent") else "no")
        elif item.template == "protons":
            ordered = sorted(item.choices, key=lambda name: int(known(name, "number")))
            assert item.answer == ordered[0 if "fewer" in item.prompt else 1]
        else:
            continue
        checked += 1
    assert checked > 1500


def test_a_description_fits_one_animal_only() -> None:
    labels = {label: attribute for attribute, label in ranger.LABELS.items()}
    described = [item for item in asked("conservation") if item.template.startswith(("identify", "trace"))]
    assert len(described) > 300
    for item in described:
        note = re.split(r"Field note: |A ranger writes: |this note: ", item.prompt)[1]
        note = re.split(r"\. Which|\? Answer", note)[0]
        facts = [(labels[part.split(": ")[0]], part.split(": ")[1]) for part in note.split("; ")]
        assert len(facts) >= 3
        fits = [
            name
            for name, row in tables.subjects("conservation").items()
            if all(row[attribute].value == value for attribute, value in facts)
        ]
        assert fits == [item.answer], item.line
        for wrong in set(item.choices) - {item.answer}:
            row = tables.subjects("conservation")[wrong]
            unlike = [a for a, value in facts if not tables.words(row[a].value) & tables.words(value)]
            assert len(unlike) >= 2, (item.line, wrong)
            assert "mark" in unlike or item.template == "trace", (item.line, wrong)


def lines_of(report: str) -> dict[str, str]:
    return dict(re.findall(r"Block (\w\d): ([^.]*)\.", report))


def threats_in(report: str) -> list[tuple[str, str]]:
    """(block, threat) of every line that is a sign."""
    signs = {
        re.escape(sign).replace(re.escape("{n}"), r"\d+"): threat["name"]
        for threat in ranger.parts()["threats"].values()
        for sign in threat["signs"]
    }
    return [
        (block, name)
        for block, line in lines_of(report).items()
        for sign, name in signs.items()
        if re.fullmatch(sign, line)
    ]


def test_reports_show_what_is_asked() -> None:
    checked = Counter()
    for item in asked("conservation"):
        if not item.template.startswith("report"):
            continue
        found = threats_in(item.prompt)
        assert len(lines_of(item.prompt)) == 4, item.line
        assert len(found) <= 1
        counts = {name: int(n) for name, n in re.findall(r": ([^.:]*?) seen, (\d+) of them", item.prompt)}
        block, threat = found[0] if found else ("", "")
        expected = {
            "report-threat": threat,
            "report-any": "yes" if found else "no",
            "report-where": block,
            "report-seen": next(iter(counts)),
            "report-total": str(sum(counts.values())),
        }[item.template.removesuffix("-short")]
        assert item.answer == expected, item.line
        if item.template == "report-seen":
            assert [choice for choice in item.choices if choice in item.prompt] == [item.answer]
        checked[item.template] += 1
    assert min(checked.values()) > 50
    assert len(checked) == 6


def test_a_look_up_is_what_the_page_says() -> None:
    pages = [item for item in asked("conservation") if item.template == "handbook"]
    assert len(pages) > 50
    for item in pages:
        page, animal = re.fullmatch(
            r"Handbook, rules near animals\. (.*)\. What is the rule near the (.*)\? Answer:", item.prompt
        ).groups()
        rules = dict(rule.split(": ", 1) for rule in page.split(". "))
        assert item.answer == rules[animal]
        assert set(item.choices) == set(rules.values())
        assert all(known(name, "guidance") == rule for name, rule in rules.items())


def test_lines_that_only_sound_like_a_threat_stand_in_as_many_safe_reports() -> None:
    cleared = ranger.parts()["cleared"]
    reports = [item for item in asked("conservation") if item.template == "report-any"]
    shares = {
        answer: mean(any(line in item.prompt for line in cleared) for item in reports if item.answer == answer)
        for answer in ("yes", "no")
    }
    assert len(reports) > 60
    assert abs(shares["yes"] - shares["no"]) < 0.25


def test_wrong_numbers_leave_the_right_one_at_any_place() -> None:
    from random import Random

    random = Random(1)
    for answer in (3, 17, 250):
        ranks = Counter(sum(int(wrong) < answer for wrong in exercises.near(answer, random)) for _ in range(4000))
        assert all(900 < ranks[rank] < 1100 for rank in range(4)), answer
    assert all(int(wrong) >= 0 for _ in range(200) for wrong in exercises.near(1, random))
