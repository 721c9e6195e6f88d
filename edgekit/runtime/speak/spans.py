"""The spans of ways of speaking: each engine's runs bear its component's name."""

from edgekit.spans import SPEAK, register

TALKER_ADAPTER = register("talker_adapter", "rows", "rows of the backbone to the talker's", within=SPEAK)
TALKER = register("talker", "rows", "a run of the talker", within=SPEAK)
CODE_PREDICTOR = register("code_predictor", "codes", "a frame's next code", within=SPEAK)
DECODER = register("decoder", "frames of codes", "frames of codes to samples", within=SPEAK)
FLOW_ENCODER = register("flow_encoder", "runs", "codes to what the flow is led by", within=SPEAK)
FLOW_STEP = register("flow_step", "runs", "a step of the flow's solver", within=SPEAK)
VOCODER = register("vocoder", "runs", "log-mel to samples", within=SPEAK)
