"""Three nodes in one Python program each hold a third of the demo model and answer together.

python examples/three_nodes.py ["a question"]
"""

import asyncio
import sys

from aitorrentd import Node
from aitorrentd.api import MessageReceived, PeerConnected


def third(layers: str) -> dict[str, object]:
    """The configuration of a node that holds these layers of the demo model."""
    return {
        "plugins": {
            "transport": {"listen": "127.0.0.1", "port": 0},
            "ollama": {"enabled": False},
            "shards": {"models": [{"name": "demo", "layers": layers}]},
        }
    }


async def main(question: str) -> None:
    async with (
        Node.temporary(third("0-3")) as one,
        Node.temporary(third("3-6")) as two,
        Node.temporary(third("6-9")) as three,
    ):
        one.on(PeerConnected, lambda event: print(f"connected to {event.peer}"))
        heard = asyncio.Event()
        two.on(MessageReceived, lambda event: (print(f"two received: {event.text}"), heard.set()))
        for other in (two, three):
            await one.connect(other.addresses()[0])
        print(f"sent to {await one.broadcast('hello, all')} peers")
        await asyncio.wait_for(heard.wait(), 10)

        await one.wait_for_model("demo")
        print(f"> {question}")
        async for chunk in one.generate(question, model="demo"):
            print(chunk.text, end="", flush=True)
            if chunk.done:
                for stage in chunk.stages:
                    print(f"\nlayers {stage.start}-{stage.end} by {stage.peer}", end="")
        print()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is a shard?"))
