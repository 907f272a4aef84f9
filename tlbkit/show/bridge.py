"""The door between the page and Python: one request in, one reply out, both JSON.

Runs in the page's own Python, so it needs the standard library only.
"""

import json

from tlbkit import lab
from tlbkit.errors import TlbkitError
from tlbkit.show.panels import feeds


def reply(request: str) -> str:
    """Answer one request of the page.

    Args:
        request: JSON ``{"scenario": name, "params": {name: value}}``.

    Returns:
        JSON ``{"text", "header", "rows", "panels"}``, where ``panels`` holds one feed
        (see :mod:`tlbkit.show.panels`) for each panel; or ``{"error": sentence}``.
        Nothing is raised: the page can only show what it is sent.
    """
    try:
        asked = json.loads(request)
        answer = lab.find_exploration(asked["scenario"]).answer(asked["params"])
        return json.dumps(
            {
                "text": answer.text,
                "header": answer.header,
                "rows": answer.rows,
                "panels": feeds(asked["scenario"], answer.columns),
            }
        )
    except TlbkitError as error:
        return json.dumps({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - a bug must reach the reader as a sentence
        kind = type(error).__name__
        return json.dumps({"error": f"tlbkit has a bug here: {kind}: {error}"})
