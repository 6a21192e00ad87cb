# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf train`: what comes out, how it continues, and what it refuses."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from coca_hf.evaluation.models import evaluate_model
from coca_hf.image_text_data import open_image_text_data
from tiny_folder import CORPUS


NUMBER = 18
QUICK = ["--workers", "0", "--batch-size", "4", "--learning-rate", "1e-2"]


@pytest.fixture
def photos(folder) -> str:
    """Pictures of noise with one or two captions each; number 5 is no picture."""
    (folder / "photos").mkdir()
    rows = []
    for number in range(NUMBER):
        name = f"photos/{number:02d}.png"
        Image.effect_noise((20 + number, 24), 5 * number).convert("RGB").save(name)
        captions = [CORPUS[number], CORPUS[-1 - number]]
        rows.append({"image": name, "caption": captions[: 1 + number % 2]})
    Path("photos/05.png").write_bytes(b"no picture")
    Path("photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    return "photos.jsonl"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def tensors(folder: str) -> dict[str, torch.Tensor]:
    return load_file(f"{folder}/model.safetensors")


def changed(before: str, after: str) -> set[str]:
    old, new = tensors(before), tensors(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_a_fine_tuned_folder_is_complete_and_says_how_it_was_made(coca, model, photos):
    arguments = ["train", photos, "--model", model, "--output", "out", "--evaluate", "held.jsonl", "--epochs", "2"]
    result = coca(*arguments, *QUICK, "--log-every", "1")
    assert result.code == 1  # an image could not be read
    assert "1 image could not be read: see skipped.jsonl" in result.err
    log = rows("out/log.jsonl")
    # Five steps an epoch, of which the last has two images; the broken one is not seen.
    assert [row["step"] for row in log] == list(range(1, 11))
    assert [row["samples"] for row in log][4::5] == [17, 34]
    assert set(log[0]) == {"step", "loss", "caption_loss", "contrastive_loss", "learning_rate", "samples"}
    config = json.loads(Path("out/config.json").read_text())
    for row in log:
        weighted = config["caption_loss_weight"] * row["caption_loss"]
        weighted += config["contrastive_loss_weight"] * row["contrastive_loss"]
        assert row["loss"] == pytest.approx(weighted, rel=1e-5)
    assert log[-1]["loss"] < log[0]["loss"]
    assert [(row["image"], row["error"][:30]) for row in rows("out/skipped.jsonl")] == [
        ("photos/05.png", "not a readable image of a know")
    ]
    assert [row["step"] for row in rows("out/evaluations.jsonl")] == [0, 5, 10]
    assert not Path("out/checkpoints").exists()

    card = Path("out/README.md").read_text()
    assert "`photos.jsonl`: 18 records" in card
    assert "10 steps, 34 samples, 1 image could not be read" in card
    assert "| next tokens that are right |" in card
    assert "| CIDEr of greedy captions |" in card
    tuned, processor = AutoModelForImageTextToText.from_pretrained("out"), AutoProcessor.from_pretrained("out")
    after = json.loads(Path("out/result.json").read_text())["after"]
    length = min(tuned.config.text_config.max_position_embeddings, processor.tokenizer.model_max_length)
    scores = evaluate_model(tuned, processor, open_image_text_data("held.jsonl"), max_length=length)
    for metric in ("cider", "bleu_4", "rouge_l"):
        assert after[metric] == pytest.approx(scores[metric])
    inputs = processor(images=[Image.open("photos/00.png")], return_tensors="pt")
    assert tuned.generate(**inputs, max_new_tokens=3).shape[0] == 1
    page = Path("out/report.html").read_text()
    assert all(word in page for word in ("Caption loss", "Text to image R@1", "<th>before</th>", "step 10"))

    again = coca(*arguments, *QUICK, "--log-every", "1")
    assert again.err == "coca-hf train: out holds the finished run already\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_that_ended_at_a_random_moment_is_continued_bit_for_bit(
    coca, start, folder, model, photos, number, chance, wait_for
):
    # A model that draws random numbers as it trains.
    shutil.copytree(model, "dropping")
    config = json.loads(Path("dropping/config.json").read_text())
    config["vision_config"]["patch_dropout"] = 0.25
    Path("dropping/config.json").write_text(json.dumps(config))
    arguments = [
        "train",
        photos,
        "--model",
        "dropping",
        "--evaluate",
        "held.jsonl",
        "--ema",
        "0.9",
        "--max-steps",
        "40",
    ]
    arguments += ["--save-every", "3", "--log-every", "2", "--evaluate-every", "8", *QUICK]
    process = start(*arguments, "--output", "out", "--quiet")
    wait_for(lambda: Path("out/log.jsonl").exists() and rows("out/log.jsonl")[-1:])
    time.sleep(chance.random() / 2)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode in (-number, 130, 1)
    continued = coca(*arguments, "--output", "out")
    undisturbed = coca(*arguments, "--output", "once")
    # On a quick machine it had come to its end already.
    assert "now" in continued.err or "holds the finished run already" in continued.err
    assert undisturbed.code == 1
    for name in ("model.safetensors", "log.jsonl", "evaluations.jsonl", "skipped.jsonl", "result.json", "README.md"):
        assert Path("out", name).read_bytes() == Path("once", name).read_bytes(), name


def test_an_interrupted_run_says_how_to_go_on(start, model, photos, wait_for):
    process = start("train", photos, "--model", model, "--output", "out", "--max-steps", "100000", *QUICK)
    wait_for(lambda: Path("out/log.jsonl").exists())
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    last = Path("stderr").read_text().splitlines()[-1]
    assert last.startswith("coca-hf train: stopped after step ")
    assert last.endswith(" of 100,000; the same command continues")


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--freeze", "vision"], ("model.vision_model.", "model.visual_projection.")),
        (["--freeze", "text,decoder"], ("model.text_model.", "model.text_projection.", "decoder.", "lm_head.")),
        (["--contrastive-weight", "0"], ("model.visual_projection.", "model.text_projection.", "model.logit_scale")),
    ],
)
def test_frozen_parts_do_not_move(coca, model, photos, arguments, kept):
    result = coca("train", photos, "--model", model, "--output", "out", *QUICK, "--weight-decay", "0", *arguments)
    assert result.code == 1, result.err
    moved = changed(model, "out")
    assert moved
    assert not [name for name in moved if name.startswith(kept)]


def test_adapters_are_merged_into_a_complete_folder(coca, model, photos):
    result = coca("train", photos, "--model", model, "--output", "out", *QUICK, "--lora", "2", "--save-every", "2")
    assert result.code == 1, result.err
    layers = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    moved = changed(model, "out")
    assert moved
    assert all(name.split(".")[-2] in layers and name.endswith("weight") for name in moved)
    assert "LoRA | rank 2, merged" in Path("out/README.md").read_text()


def test_the_average_with_the_start_lies_on_the_way(coca, model, photos):
    arguments = ["train", photos, "--model", model, *QUICK, "--max-steps", "3"]
    coca(*arguments, "--output", "whole")
    coca(*arguments, "--output", "half", "--average-with-start", "0.5")
    start, whole, half = (tensors(name) for name in (model, "whole", "half"))
    for name, value in half.items():
        torch.testing.assert_close(value, (start[name] + whole[name]) / 2, rtol=1e-5, atol=1e-6, msg=name)


def test_micro_batches_are_one_batch(coca, model, photos):
    arguments = ["train", photos, "--model", model, "--workers", "0", "--max-steps", "4", "--log-every", "1"]
    arguments += ["--augment", "none", "--learning-rate", "1e-3"]
    coca(*arguments, "--output", "whole", "--batch-size", "6")
    coca(*arguments, "--output", "parts", "--batch-size", "2", "--accumulate", "3")
    for whole, parts in zip(rows("whole/log.jsonl"), rows("parts/log.jsonl"), strict=True):
        assert parts == pytest.approx(whole, rel=1e-3)


def test_options_come_from_a_file_and_the_command_wins(coca, model, photos):
    options = {"data": [photos], "model": model, "max-steps": 2, "batch_size": 3, "learning-rate": 1e-3}
    Path("run.yaml").write_text(yaml.safe_dump(options) + "adam-epsilon: 1e-7\nfreeze: vision,text\nworkers: 0\n")
    result = coca("train", "--config", "run.yaml", "--output", "out", "--batch-size", "5")
    assert result.code in (0, 1), result.err
    written = yaml.safe_load(Path("out/training.yaml").read_text())
    assert written["data"] == [photos]
    assert (written["max_steps"], written["batch_size"], written["adam_epsilon"]) == (2, 5, 1e-7)
    assert written["freeze"] == ["vision", "text"]
    # What a run writes is what a run reads.
    assert coca("train", "--config", "out/training.yaml", "--output", "again").code == result.code
    assert Path("out/log.jsonl").read_bytes() == Path("again/log.jsonl").read_bytes()


def test_a_model_from_nothing_learns(coca, model, photos):
    arguments = ["--init", model, "--output", "out", "--epochs", "4", "--captions", "all", *QUICK, "--log-every", "1"]
    result = coca("train", photos, *arguments, "--ema", "0.5", "--scheduler", "constant", "--no-shuffle")
    assert result.code == 1, result.err
    log = rows("out/log.jsonl")
    assert log[-1]["caption_loss"] < 0.9 * log[0]["caption_loss"]
    # Of 18 images, every other one has two captions; both of the broken one are left out.
    assert log[-1]["samples"] == 4 * (18 + 9 - 2)
    assert changed(model, "out")


def refused(result) -> str:
    assert result.code == 2, result.err
    assert result.err.count("\n") == 1, result.err
    return result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no data was given"),
        (["gone.jsonl"], "--output is missing"),
        (["gone.jsonl", "-o", "out"], "'gone.jsonl': no such file"),
        (["photos.jsonl", "-o", "out", "--caption-column", "text"], "has no column 'text'; it has 'image', 'caption'"),
        (["photos.jsonl", "-o", "out", "--model", "gone"], "no model at 'gone'"),
        (["photos.jsonl", "-o", "out", "--model", "x", "--init", "coca_ViT-B-32"], "exclude each other"),
        (["photos.jsonl", "-o", "out", "--init", "coca_ViT-B-33"], "coca_ViT-B-32"),
        (["photos.jsonl", "-o", "out", "--freeze", "eyes"], "--freeze 'eyes' is not one of vision, text, decoder"),
        (["photos.jsonl", "-o", "out", "--freeze", "vision,text,decoder"], "leaves nothing to train"),
        (["photos.jsonl", "-o", "out", "--epochs", "1", "--max-steps", "2"], "exclude each other"),
        (["photos.jsonl", "-o", "out", "--batch-size", "0"], "--batch-size 0 is not allowed: give more than 0"),
        (["photos.jsonl", "-o", "out", "--scheduler", "step"], "is not one of cosine, linear, constant"),
        (["photos.jsonl", "-o", "out", "--best", "next_token_accuracy"], "need data: give --evaluate"),
        (
            ["photos.jsonl", "-o", "out", "--config", "bad.yaml"],
            "no option 'lerning-rate'; the nearest is 'learning-rate'",
        ),
        (["photos.jsonl", "-o", "out", "--config", "text.yaml"], "--epochs 'two' is not a whole number"),
        (["photos.jsonl", "-o", "photos.jsonl"], "is a file: name a folder"),
        (["photos.jsonl", "-o", "photos"], "holds other things than a training run"),
        (["photos.jsonl", "-o", "out", "--accumulate", "100"], "18 samples are too few"),
        (["photos.jsonl", "-o", "out", "--device", "cpu", "--dtype", "float16"], "--dtype float16 is for cards"),
        (["photos.jsonl", "-o", "out", "--report-to", "tensorbord"], "--report-to: tensorbord is not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(coca, photos, arguments, message):
    Path("bad.yaml").write_text("lerning-rate: 1e-3\n")
    Path("text.yaml").write_text("epochs: two\n")
    before = sorted(Path("photos").iterdir())
    assert message in refused(coca("train", *arguments))
    assert not Path("out").exists()
    assert sorted(Path("photos").iterdir()) == before


def test_a_run_is_not_continued_with_other_settings_data_or_model(coca, model, photos, monkeypatch):
    arguments = ["train", photos, "--model", "model", "--output", "out", *QUICK, "--max-steps", "4"]
    shutil.copytree(model, "model")
    coca(*arguments)
    message = refused(coca(*arguments, "--accumulate", "2", "--seed", "7"))
    assert "other settings: --accumulate 2 (was 1), --seed 7 (was 0)" in message

    from coca_hf.training.run import RunTrainer

    shutil.rmtree("out")
    with monkeypatch.context() as broken:
        broken.setattr(RunTrainer, "trained_model", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            coca(*arguments)
    (checkpoint,) = Path("out/checkpoints").glob("checkpoint-*")
    content = Path(checkpoint, "optimizer.pt").read_bytes()
    Path(checkpoint, "optimizer.pt").write_bytes(content[:-1])
    size = len(content)
    assert f"damaged: optimizer.pt has {size - 1:,} bytes of {size:,}. Delete this folder" in refused(coca(*arguments))
    Path("photos.jsonl").write_text("".join(Path("photos.jsonl").read_text().splitlines(True)[:-1]))
    assert "began with another number of records: 18, now 17" in refused(coca(*arguments))


def test_a_broken_image_ends_a_strict_run(coca, model, photos):
    result = coca("train", photos, "--model", model, "--output", "out", *QUICK, "--strict")
    assert result.code == 1
    assert "--strict: photos/05.png: not a readable image" in result.err


def test_a_loss_that_is_no_number_ends_the_run_in_a_sentence(coca, model, photos):
    arguments = ["train", photos, "--model", model, "--output", "out", "--max-steps", "50", "--clip-norm", "0"]
    result = coca(*arguments, "--learning-rate", "1e30", "--warmup-steps", "0", "--batch-size", "4", "--workers", "0")
    assert result.code == 1
    assert "is no number any more at step" in result.err
    assert "Try a smaller --learning-rate" in result.err
    assert result.err.count("photos/") >= 3
    assert "Traceback" not in result.err


def test_a_disk_without_room_is_noticed_before_the_run(coca, model, photos, monkeypatch):
    from coca_hf.training import run

    monkeypatch.setattr(run.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert "no space on the disk of 'out': model and checkpoints need" in refused(
        coca("train", photos, "--model", model, "--output", "out")
    )
    assert not Path("out").exists()


def test_long_captions_are_cut_and_counted(coca, model, photos):
    long = {"image": "photos/01.png", "caption": "a photo of a red cube " * 30}
    Path("long.jsonl").write_text(json.dumps(long) + "\n" + json.dumps({**long, "caption": "a red cube"}) + "\n")
    result = coca("train", "long.jsonl", "--model", model, "--output", "out", "--workers", "0")
    assert result.code == 0, result.err
    assert "1 caption cut at the model's context" in result.err


def test_the_best_evaluation_is_saved(coca, model, photos):
    arguments = ["train", photos, "--model", model, "--output", "out", *QUICK, "--max-steps", "6", "--evaluate"]
    # A rate that ruins the model, whose best is then its beginning.
    arguments += ["held.jsonl", "--evaluate-every", "2", "--best", "next_token_accuracy", "--learning-rate", "1"]
    result = coca(*arguments)
    assert result.code in (0, 1), result.err
    scores = [row["next_token_accuracy"] for row in rows("out/evaluations.jsonl")]
    after = json.loads(Path("out/result.json").read_text())["after"]["next_token_accuracy"]
    assert after == max(scores) > scores[-1] or after == scores[-1] == max(scores)
