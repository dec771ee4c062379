"""One folder that stands alone: merged weights, tokenizer, template, a model card and an Ollama Modelfile.

python -m stages.export model.path=outputs/demo/dpo
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from models.chat import ChatFormat
from models.errors import ArtifactError
from models.loading import ModelConfig, load_language_model, load_scorer, load_tokenizer
from models.ollama import modelfile
from models.quantised import merge_quantised
from stages.model_card import model_card
from train.artifact import Artifact, is_artifact_folder, read_artifact
from train.config import StageConfig
from train.entry import start
from train.run import Run


@dataclass(kw_only=True)
class ExportStage(StageConfig):
    """conf/export.yaml"""

    model: ModelConfig = field(default_factory=ModelConfig)


def run(cfg: ExportStage) -> Artifact:
    """Merge what can be merged, and seal the folder."""
    with Run(cfg, stage="export") as run:
        if run.sealed:
            return run.sealed
        kind = kind_of(cfg.model.path)
        folder = run.input(cfg.model.path, kind)
        tokenizer = load_tokenizer(folder, cfg.model)
        scorer = kind == "reward"
        model = load_scorer(folder, cfg.model)[0] if scorer else load_language_model(folder, cfg.model)
        if hasattr(model, "adapter"):
            method = model.adapter.config.method
            if method != "qlora":
                raise ArtifactError(
                    f"{cfg.model.path}: tuned with {method}, which is no part of the weights of a plain model; load it "
                    "with stages.chat, or tune with adapter=lora"
                )
            model = merge_quantised(model)
        if not scorer and tokenizer.chat_template is not None:
            ChatFormat(tokenizer).configure(model)
        beside = {"README.md": model_card(cfg.model.path, kind)}
        if not scorer:
            beside["Modelfile"] = modelfile(tokenizer, model.generation_config)
        run.say(f"{', '.join(beside)} beside the weights, in {run.folder / 'model'}")
        return run.seal(kind, model=model, tokenizer=tokenizer, beside=beside, metrics={})


def kind_of(path: str) -> str:
    """What a path holds: the kind that an artefact names, a policy where it is any other folder."""
    folder = Path(path)
    if is_artifact_folder(folder):
        return read_artifact(folder, verify=False).manifest["kind"]
    config = folder / "config.json"
    named = json.loads(config.read_text(encoding="utf-8")).get("architectures") if config.is_file() else None
    return "reward" if "ForSequenceClassification" in str(named) else "policy"


if __name__ == "__main__":
    start("export", ExportStage, run)
