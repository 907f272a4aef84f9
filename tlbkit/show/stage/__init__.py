"""The stage: the machine drawn, as it is at one moment of a recording.

`board` says what there is to see, as a function of a recording and a position alone;
`telling` says the same in words; `film` writes down what changes from moment to moment.
The page's script (``stage.js`` beside this file) draws films, and decides nothing.
"""

from tlbkit.show.stage.board import Board, Cell, Flight, board_state
from tlbkit.show.stage.film import film
from tlbkit.show.stage.show import Stage
from tlbkit.show.stage.storm import storm

__all__ = ["Board", "Cell", "Flight", "Stage", "board_state", "film", "storm"]
