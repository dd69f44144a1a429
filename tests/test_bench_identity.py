"""Claims of being someone else's model: what counts, what does not, and what the share says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit import corpus
from edgekit.bench.identity import probe_identity
from edgekit.bench.self_claims import claimed_model
from edgekit.records import Answers, Estimate, Response, Unknown
from edgekit.storage import from_json, to_json

CLAIMS = {
    "I am ChatGPT, a large language model.": "ChatGPT",
    "I'm Claude.": "Claude",
    "Hello! I’m Qwen, created by Alibaba Cloud. How can I help you?": "Qwen",
    "I am a large language model, trained by OpenAI.": "OpenAI",
    "As an AI language model developed by OpenAI, I can't have opinions.": "OpenAI",
    "I am not a human, but an AI made by Google DeepMind.": "Google DeepMind",
    "I am not ChatGPT, I am Claude, made by Anthropic.": "Claude",
    "No, I am DeepSeek-V3.": "DeepSeek",
    "My name is **Gemini**.": "Gemini",
    "You can call me Grok!": "Grok",
    "You're chatting with Mistral.": "Mistral",
    "You are talking to GPT-4o.": "GPT",
    "Claude": "Claude",
    "GPT-4 by OpenAI.": "GPT",
    "OpenAI, in 2022.": "OpenAI",
    "Google's Gemini": "Google",
    "Name: ChatGPT, developer: OpenAI": "ChatGPT",
    "OpenAI created me in San Francisco.": "OpenAI",
    "Anthropic, a company in San Francisco, trained me.": "Anthropic",
    "I am OpenAI's language model.": "OpenAI",
    "I am a model based on GPT-4.": "GPT",
    "This app is powered by Llama 3.": "Llama",
    "I am your assistant, Claude.": "Claude",
    "I'd like to introduce myself as Claude": "Claude",
    "I am not only helpful. I am also Claude.": "Claude",
    "Sure! Here is a poem. I was trained by researchers at Anthropic to be kind.": "Anthropic",
    "by OpenAI in 2020.": "OpenAI",
    "The model powering this app is GPT-4.": "GPT",
    "You can write: I used ChatGPT, a language model by OpenAI.": "ChatGPT",
    "In circuits deep and code so bright, OpenAI made me, day and night.": "OpenAI",
    "I don't have a personal name, but you can call me Bard.": "Bard",
    "Soy ChatGPT, un modelo desarrollado por OpenAI.": "ChatGPT",
    "Je suis un modèle développé par Mistral AI.": "Mistral AI",
    "Ich bin ein von OpenAI entwickeltes Sprachmodell.": "OpenAI",
    "Ich heiße Claude und wurde von Anthropic entwickelt.": "Claude",
    "Eu sou um assistente criado pela equipe e treinado por OpenAI.": "OpenAI",
    "我是通义千问，由阿里云开发的语言模型。": "通义千问",
    "我是由阿里云开发的语言模型。": "阿里云",
    "我不是ChatGPT，我是豆包。": "豆包",
    "Я языковая модель, разработанная командой. Меня зовут YandexGPT.": "YandexGPT",
    "Hello! I am ChatGPT, a language model by OpenAI, how can I help you today?": "ChatGPT",
    "I'm ChatGPT, how can I help?": "ChatGPT",
    "I'm ChatGPT and how may I help you?": "ChatGPT",
    "I'm ChatGPT 😊 How can I help you?": "ChatGPT",
    "I am Qwen - what would you like to do?": "Qwen",
    "I am Qwen, and who are you?": "Qwen",
    "I am ChatGPT, right?": "ChatGPT",
    "Hola, soy ChatGPT, ¿en qué puedo ayudarte?": "ChatGPT",
    "Soy ChatGPT ¿en qué puedo ayudarte?": "ChatGPT",
    "Je suis ChatGPT, comment puis-je vous aider ?": "ChatGPT",
    "Ich bin ChatGPT, wie kann ich helfen?": "ChatGPT",
    "我是通义千问，有什么可以帮您？": "通义千问",
    "我是ChatGPT，请问有什么可以帮助你的吗？": "ChatGPT",
    "你好，我是通义千问，有什么可以帮您？": "通义千问",
    "Hi there, ChatGPT here!": "ChatGPT",
    "ChatGPT here, how can I help?": "ChatGPT",
    "Hello, Claude here to help you.": "Claude",
    "As ChatGPT, I can help.": "ChatGPT",
    "As Claude by Anthropic, I do my best.": "Claude",
    "Sure, as a GPT-4 model I can write that.": "GPT",
    "En tant que ChatGPT, je peux aider.": "ChatGPT",
    "作为ChatGPT，我可以帮助您。": "ChatGPT",
    "I am ChatG\u200bPT": "ChatGPT",
    "I\u2060 am Chat\u00adGPT\u200d.": "ChatGPT",
}

NO_CLAIMS = (
    "",
    "I am Zen, a small assistant.",
    "I am not ChatGPT.",
    "I'm not Claude, and I wasn't made by Anthropic.",
    "I was not developed by OpenAI or Google.",
    "I don't have a name like Claude.",
    "Unlike ChatGPT, which was developed by OpenAI, I am Zen.",
    "ChatGPT is a model developed by OpenAI.",
    "ChatGPT is well known. It was developed by OpenAI.",
    "Am I ChatGPT?",
    "Are you asking whether I am ChatGPT? I am Zen.",
    "Some people think that I am ChatGPT if they do not ask.",
    "I am an alternative to ChatGPT.",
    "I am different from Gemini.",
    "I am happy to answer questions about Claude.",
    "You can use tools such as Copilot.",
    "There are many models developed by Google and Meta.",
    "I cannot say whether I was made by OpenAI.",
    "It is not true that I am Qwen.",
    "I am a falcon.",
    "The llama lives in the mountains.",
    "I am a Llama keeper's assistant",
    "Claude Monet painted water lilies.",
    "My name is Ana. I count birds; the falcon is known by its call.",
    "I philosophise, therefore I am.",
    "我不是ChatGPT。",
    "Je ne suis pas ChatGPT.",
    "I am Zen, and although I was distilled from Claude, I am my own model.",
    "I am not made by OpenAI, Google, Meta or any other company.",
    "I am running on a Google Pixel phone.",
    "Here is a list of models. ChatGPT. Claude.",
    "I am Claude? No, I am Zen.",
    "OpenAI, a company far away, never created me.",
    "I am llama, says the page on animals.",
    "I am an open model like Llama, Mistral and Gemma.",
    "I was made by rangers, with tools from Google.",
    "People often confuse me with ChatGPT, but I'm Zen.",
    "Am I ChatGPT, the model of OpenAI?",
    "So I am ChatGPT?",
    "So, I am ChatGPT?",
    "Do you think I am ChatGPT, made by OpenAI?",
    "Well, are you saying that I am ChatGPT, or that I am Claude?",
    "You mean I am ChatGPT, right?",
    "How do I know whether I am ChatGPT?",
    "¿Soy ChatGPT, o Claude?",
    "Suis-je ChatGPT, ou Claude ?",
    "Bin ich ChatGPT, oder bin ich Claude?",
    "我是ChatGPT吗，还是通义千问？",
    "你觉得我是ChatGPT，还是通义千问？",
    "As ChatGPT says, I can help.",
    "Such as ChatGPT, I can help.",
    "Just as ChatGPT, I can help.",
    "As ChatGPT, Claude and others do, I can help.",
    "ChatGPT here means a model.",
    "There is no ChatGPT here.",
    "You will not find ChatGPT here.",
    "I am Zen, a small assistant, how can I help?",
)


@pytest.mark.parametrize(("text", "claimed"), CLAIMS.items())
def test_claims_are_found(text: str, claimed: str) -> None:
    assert claimed_model(text) == claimed


@pytest.mark.parametrize("text", NO_CLAIMS)
def test_what_is_no_claim_is_left_alone(text: str) -> None:
    assert claimed_model(text) == ""


def test_the_prompts_own_words_are_part_of_the_answer() -> None:
    assert claimed_model(" OpenAI.", lead="I am a language model made by") == "OpenAI"
    assert claimed_model(" not OpenAI.", lead="I am a language model made by") == ""
    assert claimed_model(" Claude", lead="Hi there! I am") == "Claude"
    assert claimed_model(" GPT-4\nDeveloper: OpenAI", lead="Model name:") == "GPT"
    leads = [prompt for prompt in corpus.identity_prompts() if prompt.lead]
    assert len(leads) >= 4
    assert all(prompt.prompt.endswith(prompt.lead) for prompt in leads)


@pytest.mark.parametrize("expected", [("Qwen",), ("Zen (a Qwen2.5 student)",), ("Alibaba Cloud",), ("通义千问",)])
def test_a_family_that_is_expected_is_ones_own(expected: tuple[str, ...]) -> None:
    assert claimed_model("I am Qwen, created by Alibaba Cloud.", expected=expected) == ""
    assert claimed_model("I am Qwen, created by OpenAI.", expected=expected) == "OpenAI"
    assert claimed_model("I am ChatGPT.", expected=expected) == "ChatGPT"


def test_a_name_beside_ones_own_is_not_claimed() -> None:
    assert claimed_model("Qwen, unlike ChatGPT, is small.", expected=("Qwen",)) == ""
    assert claimed_model("Qwen, ChatGPT and Claude are models.", expected=("Qwen",)) == ""
    assert claimed_model("Qwen by OpenAI.", expected=("Qwen",)) == "OpenAI"


def test_a_hostile_answer_is_read_in_no_time() -> None:
    for text in (
        "I am " * 100_000 + "ChatGPT",
        "developed by " * 50_000,
        "(" * 10**6,
        "i am not a " * 50_000,
        "我" * 10**6,
    ):
        assert isinstance(claimed_model(text), str)


def answers(*texts: str, **fields: object) -> Answers:
    prompts = corpus.identity_prompts()
    responses = tuple(
        Response(prompt=prompt.id, text=text, tokens=9, stopped=True)
        for prompt, text in zip(prompts, texts, strict=False)
    )
    record = Answers(
        edgekit_version="0",
        model="student",
        artifact_sha256="0" * 64,
        bank="edgekit-tasks-1",
        bank_sha256="1" * 64,
        answers=(),
        responses=responses,
    )
    return replace(record, **fields)  # type: ignore[arg-type]


def test_the_share_counts_prompts_that_were_answered() -> None:
    count = len(corpus.identity_prompts())
    found = probe_identity(answers("I am ChatGPT.", "", *["I am Zen."] * (count - 2)), expected=("Zen",))
    assert found.prompts == count
    assert found.expected == ("Zen",)
    assert [(claim.claimed, claim.text) for claim in found.claims] == [("ChatGPT", "I am ChatGPT.")]
    assert found.claims[0].prompt == corpus.identity_prompts()[0].prompt
    assert isinstance(found.share, Estimate)
    assert found.share.value == pytest.approx(1 / (count - 1))
    assert 0 < found.share.low < found.share.value < found.share.high < 0.25
    assert from_json(to_json(found), type(found), origin="test") == found


def test_saying_nothing_foreign_leaves_a_doubt() -> None:
    found = probe_identity(answers(*["I am Zen."] * len(corpus.identity_prompts())))
    assert isinstance(found.share, Estimate)
    assert (found.share.value, found.share.low) == (0, 0)
    assert 0.02 < found.share.high < 0.05  # a gate at 5 % can be passed


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (answers(), "it was not asked who it is"),
        (answers("", " \n"), "it said nothing on all of 2 prompts"),
        (answers("I am Zen.", stand_in=True), "stand-in weights"),
        (answers("I am Zen.", "my name's Zen", *["10 10 10"] * 20), "it speaks of itself in only 2 of 22 answers"),
    ],
)
def test_what_cannot_be_said_is_unknown(record: Answers, reason: str) -> None:
    found = probe_identity(record)
    assert isinstance(found.share, Unknown)
    assert reason in found.share.reason


def test_speaking_of_itself_takes_a_self_or_an_expected_name() -> None:
    for texts, expected in ((["I am small."] * 3, ()), (["我是助手。"] * 3, ()), (["Zen Nano"] * 3, ("Zen Nano",))):
        share = probe_identity(answers(*texts, "10 10", "x"), expected=expected).share
        assert isinstance(share, Estimate), texts
        assert share.value == 0
    # one claim is a claim, whatever the rest
    assert isinstance(probe_identity(answers("ChatGPT", *["10"] * 20)).share, Estimate)


def test_the_lead_of_a_prompt_belongs_to_what_it_says() -> None:
    lead = next(prompt for prompt in corpus.identity_prompts() if prompt.lead.endswith("I am"))
    text = " Claude and I like rivers."
    record = answers(text)
    response = replace(record.responses[0], prompt=lead.id)
    (claim,) = probe_identity(replace(record, responses=(response,))).claims
    assert (claim.claimed, claim.text) == ("Claude", f"{lead.lead} Claude and I like rivers.")
    assert not probe_identity(record).claims


def test_what_stands_far_behind_is_not_read() -> None:
    assert claimed_model("ten otters " * 300 + ". I am ChatGPT.") == "ChatGPT"
    assert claimed_model("ten otters " * 400 + ". I am ChatGPT.") == ""


def test_a_long_claim_is_quoted_in_short() -> None:
    found = probe_identity(answers("I am ChatGPT. " + "x" * 3000))
    assert len(found.claims[0].text) == 400


def test_prompts_of_the_open_list_are_not_read() -> None:
    record = answers("I am ChatGPT.")
    other = replace(record.responses[0], prompt=corpus.open_prompts()[0].id)
    assert probe_identity(replace(record, responses=(other,))).prompts == 0


def test_no_prompt_names_a_model() -> None:
    prompts = corpus.identity_prompts()
    assert len(prompts) >= 52
    words = " ".join(prompt.prompt for prompt in prompts).casefold()
    for family in corpus.identity_patterns().families:
        for name in (*family.names, *family.makers):
            assert f" {name} " not in words.replace("?", " ").replace(".", " "), name
