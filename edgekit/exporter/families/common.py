"""Keys that any config of transformers may have, and those of training, which no model that runs looks at.

Source: transformers 4.57.6 and 5.24.0, PretrainedConfig.
"""

from dataclasses import replace

from edgekit.exporter.families.generation import FILE, GENERATION
from edgekit.exporter.families.keys import Key, refused, unused, used

_GIVEN = unused("what a model hands back beside its logits")
_TASKS = unused("of pipelines for other tasks")
_KINDS = unused("the family decides")
_NUMBERS = unused("weights are read as float32 and stored as the recipe says")
_FLOAT_NEEDED = "export needs the original float weights"

TRAINING: dict[str, Key] = dict.fromkeys(
    (
        "activation_dropout", "apply_spec_augment", "attention_dropout", "decoder_layerdrop", "dropout",
        "encoder_layerdrop", "init_std", "initializer_range", "layer_scale_initial_scale", "mask_feature_length",
        "mask_feature_min_masks", "mask_feature_prob", "mask_time_length", "mask_time_min_masks", "mask_time_prob",
        "output_router_logits", "router_aux_loss_coef",
    ),
    unused("of training"),
)  # fmt: skip

# Of a config that says how to generate; GENERATION says what each means.
_GENERATING = {
    name: row if row.effect == "none" else replace(used(f"as in {FILE}, where that is absent"), shared=True)
    for name, row in GENERATION.rows.items()
}

COMMON: dict[str, Key] = {
    **_GENERATING,
    **dict.fromkeys(("architectures", "auto_map", "is_decoder", "is_encoder_decoder"), _KINDS),
    **dict.fromkeys(("add_cross_attention", "cross_attention_hidden_size"), _KINDS),
    **dict.fromkeys(("dtype", "torch_dtype", "use_bfloat16"), _NUMBERS),
    **dict.fromkeys(("finetuning_task", "id2label", "label2id", "prefix", "problem_type"), _TASKS),
    **dict.fromkeys(("sep_token_id", "task_specific_params", "tf_legacy_loss", "tokenizer_class"), _TASKS),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict", "torchscript"), _GIVEN),
    "chunk_size_feed_forward": unused("the same numbers, computed in pieces"),
    "use_cache": unused("keys and values are always kept"),
    "model_type": replace(used("the family, or the kind of a text model"), shared=True),
    "transformers_version": unused("who wrote the file"),
    "pruned_heads": refused("every head is computed", {}, []),
    "tie_encoder_decoder": refused("encoder and decoder have weights of their own", False),
    "tie_word_embeddings": unused("the config of the text model says it"),
    **dict.fromkeys(("quantization_config", "compression_config"), refused(_FLOAT_NEEDED, {})),
    **dict.fromkeys(("unsloth_fixed", "unsloth_version", "transformers.js_config"), unused("remarks of other tools")),
}
