"""The door between the page and Python: one request in, one reply out, both JSON.

Runs in the page's own Python, so it needs the standard library only.
"""

import json
from typing import Any

from tlbkit import lab
from tlbkit.errors import TlbkitError
from tlbkit.show.panels import feeds
from tlbkit.show.stage.page import content
from tlbkit.show.stage.show import following


def reply(request: str) -> str:
    """Answer one request of the page.

    Args:
        request: JSON ``{"scenario": name, "params": {name: value}}``, and ``"stage"``
            if a stage follows.

    Returns:
        JSON ``{"text", "header", "rows", "panels"}``, where ``panels`` holds one feed
        (see :mod:`tlbkit.show.panels`) for each panel, and ``"stage"`` what a stage
        shows, if that was asked; or ``{"error": sentence}``.
        Nothing is raised: the page can only show what it is sent.
    """
    try:
        asked = json.loads(request)
        answer = lab.find_exploration(asked["scenario"]).asked(asked["params"])
        told: dict[str, Any] = {
            "text": answer.text,
            "header": answer.header,
            "rows": answer.rows,
            "panels": feeds(asked["scenario"], answer.columns),
        }
        if asked.get("stage"):
            told["stage"] = content(following(asked["scenario"], asked["params"]))
        return json.dumps(told)
    except TlbkitError as error:
        return json.dumps({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - a bug must reach the reader as a sentence
        kind = type(error).__name__
        return json.dumps({"error": f"tlbkit has a bug here: {kind}: {error}"})
