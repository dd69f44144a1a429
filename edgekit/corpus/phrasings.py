"""How a fact is said and asked: `{n}` is the subject, `{v}` the value. Statement × opener × fact is one line."""

from __future__ import annotations

OPENERS: dict[str, tuple[str, ...]] = {
    "conservation": (
        "",
        "The field guide says that",
        "Rangers teach that",
        "Note for the patrol:",
        "On every walk we repeat that",
        "Remember:",
        "Visitors should know that",
        "A page of the park handbook explains that",
    ),
    "factual": (
        "",
        "It is well known that",
        "The atlas says that",
        "Remember:",
        "Every pupil learns that",
        "A short fact:",
        "As the table shows,",
        "One line of the almanac reads:",
    ),
}

QUESTION_OPENERS: dict[str, tuple[str, ...]] = {
    "conservation": ("Question:", "Ranger quiz:", "A visitor asks:", "From the logbook:"),
    "factual": ("Question:", "Quiz:", "Quick check:", "On the test:"),
}

STATEMENTS: dict[str, tuple[str, ...]] = {
    "group": (
        "the {n} is a kind of {v}",
        "the {n} belongs with the {v} group",
        "in the species list the {n} stands under {v}",
        "{v} is the right group for the {n}",
    ),
    "region": (
        "the {n} lives in the wild mainly in {v}",
        "the wild range of the {n} is mainly in {v}",
        "free-living animals of the {n} are found mainly in {v}",
        "{v} is the place to look for the {n}",
    ),
    "habitat": (
        "the {n} lives in {v}",
        "the home of the {n} is {v}",
        "look for the {n} in {v}",
        "the {n} needs {v}",
    ),
    "diet": (
        "the {n} feeds mainly on {v}",
        "the main food of the {n} is {v}",
        "the diet of the {n} is mostly {v}",
        "for the {n} a meal means {v}",
    ),
    "active": (
        "the {n} is active mostly {v}",
        "the {n} moves and feeds mostly {v}",
        "most sightings of the {n} are made {v}",
        "the best time to watch the {n} is {v}",
    ),
    "mark": (
        "the {n} is known by its {v}",
        "you can tell the {n} by its {v}",
        "a sure mark of the {n} is its {v}",
        "rangers recognise the {n} by its {v}",
    ),
    "threat": (
        "the {n} is threatened by {v}",
        "the main danger to the {n} is {v}",
        "what harms the {n} most is {v}",
        "numbers of the {n} fall because of {v}",
    ),
    "guidance": (
        "near the {n}, {v}",
        "where the {n} lives, {v}",
        "the rule for the {n} is: {v}",
        "to keep people and the {n} safe, {v}",
    ),
    "capital": (
        "the capital of {n} is {v}",
        "{v} is the capital of {n}",
        "{n} is governed from its capital {v}",
        "the capital city of {n} is called {v}",
    ),
    "continent": (
        "{n} lies in {v}",
        "{n} is a country in {v}",
        "on the map {n} belongs to {v}",
        "{v} is the continent of {n}",
    ),
    "language": (
        "the official language of {n} is {v}",
        "people in {n} deal with the state in {v}",
        "{v} is the official language of {n}",
        "laws of {n} are written in {v}",
    ),
    "currency": (
        "the currency of {n} is {v}",
        "people in {n} pay with {v}",
        "prices in {n} are given in units of {v}",
        "{v} is the money of {n}",
    ),
    "symbol": (
        "the chemical symbol of {n} is {v}",
        "chemists write {v} for {n}",
        "{n} has the symbol {v}",
        "{v} stands for {n}",
    ),
    "number": (
        "the atomic number of {n} is {v}",
        "an atom of {n} has {v} protons",
        "{n} is element number {v}",
        "{n} comes at place {v} in the periodic table",
    ),
    "family": (
        "{n} belongs to the {v}",
        "{n} is counted among the {v}",
        "the {v} include {n}",
        "{n} is one of the {v}",
    ),
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "group": ("what kind of animal is the {n}?", "in which group is the {n}?"),
    "region": ("where does the {n} live in the wild?", "in what part of the world is the {n} at home?"),
    "habitat": ("what is the habitat of the {n}?", "in what kind of place does the {n} live?"),
    "diet": ("what does the {n} mainly eat?", "what is the main food of the {n}?"),
    "active": ("when is the {n} active?", "at what time does the {n} move and feed?"),
    "mark": ("how do you recognise the {n}?", "what is a sure mark of the {n}?"),
    "threat": ("what threatens the {n}?", "what is the main danger to the {n}?"),
    "guidance": ("what should people do where the {n} lives?", "what is the rule near the {n}?"),
    "capital": ("what is the capital of {n}?", "which city is the capital of {n}?"),
    "continent": ("in which continent is {n}?", "to what continent does {n} belong?"),
    "language": ("what is the official language of {n}?", "which language is official in {n}?"),
    "currency": ("what is the currency of {n}?", "with what money do people pay in {n}?"),
    "symbol": ("what is the chemical symbol of {n}?", "which symbol stands for {n}?"),
    "number": ("what is the atomic number of {n}?", "how many protons has an atom of {n}?"),
    "family": ("to which family of elements does {n} belong?", "in what family is {n}?"),
}

REVERSED: dict[str, tuple[str, ...]] = {
    "capital": ("of which country is {v} the capital?", "which country has the capital {v}?"),
    "symbol": ("which element has the symbol {v}?", "which element do chemists write as {v}?"),
    "number": ("which element has the atomic number {v}?", "an atom of which element has {v} protons?"),
    "mark": ("which animal is known by its {v}?", "for which animal is this a sure mark: {v}?"),
    "threat": ("which animal is threatened by {v}?", "numbers of which animal fall because of {v}?"),
    "habitat": ("which animal lives in {v}?", "for which animal do you look in {v}?"),
}
"""Asked for the subject: only attributes of which hardly two subjects share a value."""

SHORT: dict[str, str] = {
    "capital": "with the city's name only",
    "capital-reversed": "with the country's name only",
    "symbol": "with the symbol only",
    "symbol-reversed": "with the element's name only",
    "number": "with the number only",
}
"""How a question is asked without choices: only where one answer is right, in one spelling, and hard to guess."""
