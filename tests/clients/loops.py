"""One loop for each client: it asks, runs the tool, and gets the answer. Run in the clients' environment."""

import asyncio
import sys
import traceback
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel, Field

QUESTION = "What is the weather in Paris?"
ANSWER = "It is sunny in Paris, with 21 degrees."
MODEL = "embedded"
RUNS: list[str] = []
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Sky(BaseModel):
    """Anthropic's client leaves the bounds out of a schema."""

    sunny: bool
    clouds: Literal["none", "few"]


class City(BaseModel):
    """A city. Bounded, because the embedded model would go on and on."""

    name: str = Field(max_length=20)
    districts: int = Field(ge=0, le=99)


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    RUNS.append(city)
    return '{"degrees": 21, "sky": "sunny"}'


def openai_client(base: str) -> None:
    import json

    import openai

    client = openai.OpenAI(base_url=base, api_key="-")
    parsed = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], response_format=City, max_tokens=200
    )
    assert isinstance(parsed.choices[0].message.parsed, City)
    tool = openai.pydantic_function_tool(Weather, name="get_weather", description="Get the weather in a city.")
    messages: list = [{"role": "user", "content": QUESTION}]
    asked = {"model": MODEL, "messages": messages, "tools": [tool], "temperature": 0, "max_tokens": 60}
    with client.chat.completions.stream(**asked) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
    result = get_weather(**json.loads(call.function.arguments))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = client.chat.completions.create(**asked).choices[0].message.content
    assert answer == ANSWER, answer


class Weather(BaseModel):
    city: str


def langchain(base: str) -> None:
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=base, api_key="-", model=MODEL, temperature=0, max_tokens=60)
    said = create_agent(model, [tool(get_weather)]).invoke({"messages": [("user", QUESTION)]})
    assert said["messages"][-1].content == ANSWER, said
    form = ChatOpenAI(base_url=base, api_key="-", model=MODEL, max_tokens=200)
    assert isinstance(form.with_structured_output(City, method="json_schema").invoke(QUESTION), City)


def pydantic_ai(base: str) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=base, api_key="-"))
    agent = Agent(model, tools=[get_weather], model_settings={"temperature": 0, "max_tokens": 60})
    assert agent.run_sync(QUESTION).output == ANSWER
    form = Agent(model, output_type=City, model_settings={"max_tokens": 200})
    assert isinstance(form.run_sync(QUESTION).output, City)


def openai_agents(base: str) -> None:
    from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)

    async def run() -> None:
        model = OpenAIChatCompletionsModel(MODEL, openai_client=AsyncOpenAI(base_url=base, api_key="-"))
        settings = ModelSettings(temperature=0, max_tokens=60)
        agent = Agent(name="weather", model=model, tools=[function_tool(get_weather)], model_settings=settings)
        assert (await Runner.run(agent, QUESTION)).final_output == ANSWER
        streamed = Runner.run_streamed(agent, QUESTION)
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == ANSWER

    asyncio.run(run())


def responses(base: str) -> None:
    """OpenAI's client, LangChain and the Agents SDK over the Responses API."""
    import json

    import openai
    from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    client = openai.OpenAI(base_url=base, api_key="-")
    parsed = client.responses.parse(model=MODEL, input=QUESTION, text_format=City, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, City)
    weather = openai.pydantic_function_tool(Weather, name="get_weather", description="Get the weather in a city.")
    function = {"type": "function", **weather["function"]}
    items: list = [{"role": "user", "content": QUESTION}]
    asked = {"model": MODEL, "input": items, "tools": [function], "temperature": 0, "max_output_tokens": 60}
    with client.responses.stream(**asked) as stream:
        output = stream.get_final_response().output
    (call,) = (item for item in output if item.type == "function_call")
    items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in output]
    result = get_weather(**json.loads(call.arguments))
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    assert client.responses.create(**asked).output_text == ANSWER

    model = ChatOpenAI(base_url=base, api_key="-", model=MODEL, temperature=0, use_responses_api=True)
    said = create_agent(model, [tool(get_weather)]).invoke({"messages": [("user", QUESTION)]})
    assert said["messages"][-1].text == ANSWER, said
    set_tracing_disabled(True)

    async def run() -> None:
        model = OpenAIResponsesModel(MODEL, openai_client=openai.AsyncOpenAI(base_url=base, api_key="-"))
        settings = ModelSettings(temperature=0, max_tokens=60, store=False)
        agent = Agent(name="weather", model=model, tools=[function_tool(get_weather)], model_settings=settings)
        assert (await Runner.run(agent, QUESTION)).final_output == ANSWER
        streamed = Runner.run_streamed(agent, QUESTION)
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == ANSWER

    asyncio.run(run())


def instructor_modes(base: str) -> None:
    import instructor
    import openai

    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai.OpenAI(base_url=base, api_key="-"), mode=mode)
        messages = [{"role": "user", "content": QUESTION}]
        made = client.chat.completions.create(
            model=MODEL, messages=messages, response_model=Closed, max_tokens=200, max_retries=0
        )
        assert isinstance(made, Closed)


class Closed(City, extra="forbid"):
    """A city."""


def outlines_remote(base: str) -> None:
    import openai
    import outlines
    from outlines.types import CFG, Regex

    client = openai.OpenAI(base_url=base, api_key="-")
    Closed.model_validate_json(outlines.from_openai(client, MODEL)(QUESTION, Closed, max_tokens=200))
    vllm = outlines.from_vllm(client, MODEL)
    Closed.model_validate_json(vllm(QUESTION, Closed, max_tokens=200))
    assert vllm(QUESTION, Literal["sun", "rain"]) in ("sun", "rain")
    assert vllm(QUESTION, CFG('start: "yes" | "no"')) in ("yes", "no")
    degrees = vllm(QUESTION, Regex("[0-9]{2}"))
    assert len(degrees) == 2
    assert degrees.isdigit()


def guidance_remote(base: str) -> None:
    import guidance
    from guidance import assistant, gen, models, select, user

    asked = models.experimental.VLLMModel(MODEL, base_url=base, api_key="-")
    with user():
        asked += QUESTION
    with assistant():
        chosen = asked + select(["sun", "rain"], name="sky")
    assert chosen["sky"] in ("sun", "rain")
    with assistant():
        number = asked + gen("degrees", regex="[0-9]{2}")
    assert number["degrees"].isdigit()
    with assistant():
        city = asked + guidance.json(name="city", schema=Closed)
    Closed.model_validate_json(city["city"])


def anthropic_client(base: str) -> None:
    import anthropic

    client = anthropic.Anthropic(base_url=base.removesuffix("/v1"), api_key="-")
    question = {"role": "user", "content": QUESTION}
    parsed = client.messages.parse(model=MODEL, messages=[question], output_format=Sky, max_tokens=200)
    assert isinstance(parsed.parsed_output, Sky)
    tool = {"name": "get_weather", "description": "Get the weather in a city.", "input_schema": SCHEMA}
    asked = {"model": MODEL, "tools": [tool], "max_tokens": 60, "extra_body": {"temperature": 0}}
    with client.messages.stream(messages=[question], **asked) as stream:
        message = stream.get_final_message()
    (call,) = message.content
    assert message.stop_reason == "tool_use"
    counted = client.messages.count_tokens(model=MODEL, messages=[question], tools=[tool]).input_tokens
    assert counted == message.usage.input_tokens + message.usage.cache_read_input_tokens
    result = {"type": "tool_result", "tool_use_id": call.id, "content": get_weather(**call.input)}
    turns = [question, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    (text,) = client.messages.create(messages=turns, **asked).content
    assert text.text == ANSWER, text
    runner = client.beta.messages.tool_runner(
        model=MODEL, messages=[question], tools=[anthropic.beta_tool(get_weather)], max_tokens=60
    )
    assert runner.until_done().stop_reason == "end_turn"
    refused = ""
    try:
        client.messages.create(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}], max_tokens=5)
    except anthropic.BadRequestError as error:
        refused = error.message
    assert "prompt is too long" in refused


def langchain_anthropic(base: str) -> None:
    from langchain.agents import create_agent
    from langchain_anthropic import ChatAnthropic
    from langchain_core.tools import tool

    chat = ChatAnthropic(model=MODEL, base_url=base.removesuffix("/v1"), api_key="-", temperature=0, max_tokens=200)
    assert isinstance(chat.with_structured_output(Sky, method="json_schema").invoke(QUESTION), Sky)
    assert isinstance(chat.with_structured_output(Sky).invoke(QUESTION), Sky)
    agent = create_agent(chat, [tool(get_weather)])
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    assert agent.invoke(asked)["messages"][-1].content == ANSWER
    *_, last = agent.stream(asked, stream_mode="values")
    assert last["messages"][-1].content == ANSWER


LOOPS = {
    "openai": openai_client,
    "langchain": langchain,
    "pydantic-ai-slim": pydantic_ai,
    "openai-agents": openai_agents,
    "openai responses": responses,
    "instructor": instructor_modes,
    "outlines": outlines_remote,
    "guidance": guidance_remote,
    "anthropic": anthropic_client,
    "langchain-anthropic": langchain_anthropic,
}


def main(base: str, names: list[str]) -> int:
    failed = 0
    for name, loop in LOOPS.items():
        if names and name not in names:
            continue
        RUNS.clear()
        named = f"{name} {version(name.partition(' ')[0])}"
        try:
            loop(base)
            print(f"{named}: passed, {len(RUNS)} runs of the tool", flush=True)
        except Exception:  # noqa: BLE001
            failed += 1
            print(f"{named}: failed", flush=True)
            traceback.print_exc(limit=-4)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
