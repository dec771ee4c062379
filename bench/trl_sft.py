"""The peer: TRL's SFTTrainer as its documentation shows it. python -m bench.trl_sft <material> <folder> <options>

material: what bench.material wrote; options: of SFTConfig, in JSON. Writes outcome.json into the folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main(material: Path, folder: Path, options: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(material / "model")
    arguments = SFTConfig(
        output_dir=str(folder),
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **json.loads(options),
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(json.loads((material / "columns.json").read_text())),
        processing_class=AutoTokenizer.from_pretrained(material / "model"),
    )
    trainer.train()
    *steps, end = trainer.state.log_history
    outcome = {
        "seconds": end["train_runtime"],
        "losses": [step["loss"] for step in steps],
        "grad_norms": [step["grad_norm"] for step in steps],
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
