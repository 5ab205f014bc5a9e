"""The figures of verification against values worked out by hand, and the sentences of those that fail."""

import numpy as np
import pytest
from genmesh_models import verification
from genmesh_models.texts import calibration_texts, grounded, retrieval_set


def test_psnr_and_ssim_of_known_pictures() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    assert verification.psnr(picture, picture) == 100
    assert verification.ssim(picture, picture) == pytest.approx(1)
    grey, lighter = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 110, np.uint8)
    # The mean squared error is 100: 20 log10(255 / 10).
    assert verification.psnr(grey, lighter) == pytest.approx(28.1308, abs=1e-3)
    # Flat pictures differ in luminance only.
    c1 = (0.01 * 255) ** 2
    assert verification.ssim(grey, lighter) == pytest.approx((2 * 100 * 110 + c1) / (100**2 + 110**2 + c1))
    assert verification.ssim(picture, 255 - picture) < 0


def test_predictions_of_known_logits() -> None:
    theirs = np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]))
    ours = np.log(np.array([[0.25, 0.5, 0.25], [0.8, 0.1, 0.1]]))
    following = np.array([0, 0])
    agreement, ratio = verification.predictions([(ours, theirs, following)])
    assert agreement["value"] == 0.5
    # Likelihoods 0.25 x 0.8 against 0.5 x 0.8, two tokens.
    assert ratio["value"] == pytest.approx(2**0.5)
    assert ratio["reference"] == pytest.approx((0.5 * 0.8) ** -0.5)


def test_bounds_and_the_sentence_of_a_figure_that_breaks_one() -> None:
    cosine = verification.held(verification.figure("cosine_mean", 0.98), {})
    assert not verification.passes(cosine)
    assert verification.sentence(cosine) == (
        "verification failed: cosine_mean is 0.9800, must be at least 0.99 (0.0100 off)"
    )
    assert verification.passes(verification.held(verification.figure("cosine_mean", 0.98), {"cosine_mean": 0.9}))
    ratio = verification.held(verification.figure("perplexity_ratio", 1.2), {})
    assert "must be at most 1.05 (0.1500 off)" in verification.sentence(ratio)


def test_an_ndcg_is_held_against_full_precision() -> None:
    found = verification.held(verification.figure("ndcg_at_10", 0.9, 0.91), {})
    assert found["bound"] == pytest.approx(0.89)
    assert verification.passes(found)
    assert not verification.passes(verification.held(verification.figure("ndcg_at_10", 0.9, 0.93), {}))


def test_ranking_is_perfect_for_an_oracle_and_poor_for_its_opposite() -> None:
    found = retrieval_set()
    grades = dict(found.queries)
    text_of = {text: name for name, text in found.passages.items()}

    def oracle(query: str, passages: list[str]) -> list[float]:
        return [grades[query].get(text_of[p], 0) for p in passages]

    assert verification.ranking(oracle, None) == pytest.approx(1)
    assert verification.ranking(lambda q, p: [-s for s in oracle(q, p)], None) < 0.05


def test_candidates_hold_all_that_is_relevant() -> None:
    found = retrieval_set()
    for query, relevant in found.queries:
        candidates = found.candidates(query, relevant)
        assert set(relevant) <= set(candidates)
        assert len(candidates) == len(set(candidates)) >= 10


def test_calibration_and_verification_share_no_text() -> None:
    prose = " ".join(calibration_texts())
    assert not [text for text in retrieval_set().passages.values() if text in prose]
    assert len(calibration_texts()) == 200
    pairs = grounded(24)
    assert len({prompt for prompt, _ in pairs}) == 24
    for prompt, answer in pairs:
        assert prompt.startswith("Question: ")
        assert "[3] " in prompt
        passage, _, number = answer.rpartition(" [")
        assert f"[{number[:-1]}] {passage}\n" in prompt
    assert {answer[-3:] for _, answer in pairs} == {"[1]", "[2]", "[3]"}
