"""Stage ``answer_questions``: a teacher's answers on many views become one, with its evidence.

Where something was found in 3D, the views that fusion kept have their say, each with its weight;
where nothing was, all views on which the teacher answered have, alike. The answer is that of the
view which agrees most with all of them (largest weighted mean of token F1, as in minimum Bayes
risk decoding), so a view that stands alone is not heard, and answers in other words help each
other. No label has a say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.artifacts.predictions import Predictions
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.said import Said
from data.artifacts.teacher import FAILED, TeacherCache
from data.types import Array, Prompt
from stages.answer_words import NOTHING, said_phrase, token_f1

AGREES = 0.5
"""Token F1 from which on a view's answer counts as the same."""


def run(
    prompts: Sequence[Prompt], cache: TeacherCache, labels: PseudoLabels, found: Predictions
) -> list[Said]:
    """One answer for each of a scene's prompts.

    ``found`` are the masks of student and labels together. Raises ValueError for a prompt that
    the teacher was not asked.
    """
    rows = [cache.prompt_ids.index(prompt.prompt_id) for prompt in prompts]
    masks = found.only([prompt.prompt_id for prompt in prompts]).together
    answers = []
    for prompt, row, mask in zip(prompts, rows, masks, strict=True):
        num_points = int(np.count_nonzero(mask))
        weights = _weights(cache, labels, row, num_points > 0)
        answers.append(_together(prompt.prompt_id, cache, row, weights, num_points))
    return answers


def _weights(cache: TeacherCache, labels: PseudoLabels, row: int, is_found: bool) -> Array:
    """(V,) how much each view's words count."""
    kept = labels.view_weights[labels.prompt_ids.index(cache.prompt_ids[row])]
    if is_found and kept.sum() > 0:
        return np.asarray(kept)
    return np.asarray(cache.status[:, row] != FAILED, np.float32)


def _together(
    prompt_id: str, cache: TeacherCache, row: int, weights: Array, num_points: int
) -> Said:
    heard = [view for view in np.argsort(-weights, kind="stable").tolist() if weights[view] > 0]
    phrases = {view: said_phrase(cache.answers[view][row]) for view in heard}
    distinct = list(dict.fromkeys(phrases.values()))
    say = {
        phrase: float(sum(weights[view] for view in heard if phrases[view] == phrase))
        for phrase in distinct
    }
    risk = {one: sum(say[other] * token_f1(one, [other]) for other in distinct) for one in distinct}
    answer = max(distinct, key=lambda phrase: (risk[phrase], say[phrase]), default=NOTHING)
    agreeing = [view for view in heard if token_f1(phrases[view], [answer]) >= AGREES]
    total = sum(say.values())
    share = float(sum(weights[view] for view in agreeing)) / total if total else 0.0
    views = tuple(cache.view_ids[view] for view in agreeing)
    return Said(prompt_id, answer, round(share, 4), views, num_points)
