# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""transformers' own common model tests, run on the two models and on the towers that they are made of.

Names that end in `ModelTester` follow the library: its tests read sizes from these objects by attribute name.
"""

import unittest
from unittest.mock import patch

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers_tests.test_modeling_common import (
    ModelTesterMixin,
    floats_tensor,
    ids_tensor,
    random_attention_mask,
)
from transformers_tests.test_training_mixin import TrainingTesterMixin

from coca_hf.configuration_coca import CoCaConfig, CoCaTextConfig, CoCaVisionConfig
from coca_hf.modeling_coca import CoCaForCaptioning, CoCaModel, CoCaTextModel, CoCaVisionModel
from transformers_tests.generation.test_utils import NoGenerationTests


class AsPartOfTheLibrary(ModelTesterMixin):
    """The common tests, which tell by name lists what a class of the library is for, with CoCa's names in them.

    Without the names several tests pass without doing anything, training among them.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        names = {"coca": "CoCaModel", "coca_vision_model": "CoCaVisionModel", "coca_text_model": "CoCaTextModel"}
        for patcher in (
            patch.dict(MODEL_MAPPING_NAMES, names),
            patch.dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, {"coca": "CoCaForCaptioning"}),
        ):
            patcher.start()
            cls.addClassCleanup(patcher.stop)


class ConvertsShapes(AsPartOfTheLibrary):
    """Checkpoints may hold the scale as a scalar, or positions of another grid. Loading changes shapes and no key."""

    def test_reverse_loading_mapping(self):
        super().test_reverse_loading_mapping(check_keys_were_modified=False)


class MadeOfTowers(ConvertsShapes):
    """A composite, which does not repeat what the tests of its parts have shown of the library's own code."""

    @unittest.skip("The towers' tests load in each type under both names of the argument; a composite passes it on.")
    def test_bc_torch_dtype(self):
        pass


class CoCaVisionModelTester:
    batch_size = 5
    num_channels = 3
    image_size = 16
    patch_size = 4
    seq_length = (16 // 4) ** 2 + 1
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def get_config(self):
        return CoCaVisionConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=self.num_channels,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            pooler_hidden_size=64,
            num_pooler_queries=6,
            num_pooler_attention_heads=4,
        )

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, self.num_channels, self.image_size, self.image_size])
        return self.get_config(), {"pixel_values": pixel_values}


class CoCaTextModelTester:
    batch_size = 5
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def get_config(self):
        return CoCaTextConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=20,
            pad_token_id=0,
            bos_token_id=97,
            eos_token_id=98,
        )

    def prepare_config_and_inputs_for_common(self):
        # None that pads: it hides the token after it, which embeddings in place of ids cannot say.
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size).clamp(min=1)
        attention_mask = random_attention_mask([self.batch_size, self.seq_length])
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}


class CoCaModelTester:
    batch_size = 5
    seq_length = 7
    is_training = True

    def __init__(self):
        self.vision_model_tester = CoCaVisionModelTester()
        self.text_model_tester = CoCaTextModelTester()

    def get_config(self):
        text = self.text_model_tester
        return CoCaConfig(
            vision_config=self.vision_model_tester.get_config().to_dict(),
            text_config=text.get_config().to_dict(),
            multimodal_config={
                "hidden_size": text.hidden_size,
                "intermediate_size": 37,
                "num_hidden_layers": text.num_hidden_layers,
                "num_attention_heads": text.num_attention_heads,
            },
            projection_dim=24,
            logit_bias_init_value=-2.0,
        )

    def prepare_config_and_inputs_for_common(self):
        _, images = self.vision_model_tester.prepare_config_and_inputs_for_common()
        _, texts = self.text_model_tester.prepare_config_and_inputs_for_common()
        return self.get_config(), {**texts, **images}


class CoCaForCaptioningModelTester(CoCaModelTester):
    """Its sizes are the decoder's, whose hidden states and attentions the captioner returns."""

    is_training = True
    hidden_size = CoCaTextModelTester.hidden_size
    num_hidden_layers = CoCaTextModelTester.num_hidden_layers
    num_attention_heads = CoCaTextModelTester.num_attention_heads
    vocab_size = CoCaTextModelTester.vocab_size

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, {"pixel_values": inputs.pop("pixel_values"), **inputs}


class CoCaVisionModelTest(ConvertsShapes, unittest.TestCase):
    all_model_classes = (CoCaVisionModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = CoCaVisionModelTester()

    def test_model_get_set_embeddings(self):
        """The library's test wants an `nn.Embedding`; an image's patches are embedded by a convolution."""
        model = CoCaVisionModel(self.model_tester.get_config())
        assert isinstance(model.get_input_embeddings(), nn.Conv2d)
        replacement = nn.Conv2d(3, 32, kernel_size=4, stride=4)
        model.set_input_embeddings(replacement)
        assert model.get_input_embeddings() is replacement
        assert model.get_output_embeddings() is None


class CoCaTextModelTest(AsPartOfTheLibrary, unittest.TestCase):
    all_model_classes = (CoCaTextModel,)

    def setUp(self):
        self.model_tester = CoCaTextModelTester()

    @unittest.skip("What is returned is cut to the text: padding and [CLS], inside the tower, have gradients as well.")
    def test_retain_grad_hidden_states_attentions(self):
        pass


class CoCaModelTest(MadeOfTowers, unittest.TestCase):
    all_model_classes = (CoCaModel,)
    additional_model_inputs = ("pixel_values",)
    _is_composite = True

    def setUp(self):
        self.model_tester = CoCaModelTester()
        if self._testMethodName.startswith("test_eager_matches_sdpa_inference"):
            self.skipTest("All attention is in the towers, whose own tests compare both, as the captioner's do.")

    @unittest.skip("The two towers have attentions each, inside their own outputs, and are tested on their own.")
    def test_attention_outputs(self):
        pass

    @unittest.skip("The two towers have hidden states each, inside their own outputs, and are tested on their own.")
    def test_hidden_states_output(self):
        pass

    @unittest.skip("The two towers have hidden states each, inside their own outputs, and are tested on their own.")
    def test_retain_grad_hidden_states_attentions(self):
        pass


class CoCaForCaptioningTest(MadeOfTowers, NoGenerationTests, unittest.TestCase):
    # By `NoGenerationTests` the library's checks know that generation is tested elsewhere: no archive has its tests.
    all_model_classes = (CoCaForCaptioning,)
    additional_model_inputs = ("input_ids",)
    _is_composite = True
    # In releases that lack the test skipped below, its check is behind this switch; `CoCaModelTest` has it on.
    skip_test_image_features_output_shape = True

    def setUp(self):
        self.model_tester = CoCaForCaptioningModelTester()

    @unittest.skip("The caption has no places for image tokens: its rows share the images by cross-attention.")
    def test_get_image_features_pooler_output(self):
        pass


def one_image(rows):
    return torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16).expand(rows, -1, -1, -1)


class CaptionerOfOneImage(CoCaForCaptioning):
    """The library's training test prompts with text alone: here the image comes with it."""

    def generate(self, prompts, **kwargs):
        return super().generate(pixel_values=one_image(len(prompts)), input_ids=prompts, **kwargs)


class CaptionerOfOneImageTester(CoCaForCaptioningModelTester):
    causal_lm_class = CaptionerOfOneImage

    def get_config(self):
        config = super().get_config()
        config.vocab_size = self.vocab_size
        # All rows are the same pair, between which the contrastive loss cannot choose.
        config.contrastive_loss_weight = 0.0
        return config


class CoCaForCaptioningTrainingTest(TrainingTesterMixin, unittest.TestCase):
    """
    The library's training test: a caption is learnt by heart, and generated again.

    Its tests of shards (`test_fsdp_mixin`, `test_tensor_parallel_mixin`) import a module that no archive carries, and
    run only with models of their own list, which read text alone: `test_parallel.py` has ours. Its tests of pipelines
    (`test_pipeline_mixin`) download tiny models of the Hub: `test_pipeline_coca.py` has ours.
    """

    training_overfit_seq_length = 16
    # Larger steps than the library's, and a fifth as many: the caption is known by heart as well.
    training_overfit_steps = 60
    training_overfit_learning_rate = 5e-3
    model_tester = CaptionerOfOneImageTester()

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        batch = super()._create_text_training_batch(batch_size, seq_length, vocab_size)
        return {**batch, "pixel_values": one_image(batch_size)}
