"""Twenty steps of TRL's SFT trainer on an export of batchr1.

    batchr1 export out/math-r1-tiny out/sft --to sft --correct-only --test-share 0.1
    pip install trl
    python benchmarks/trl_sft.py out/sft

They show, on a CPU and with r1-tiny's weights, that it loads and learns. The data set goes in as it
lies. Only the chat template is given: the model's own, like that of the DeepSeek-R1 distills, drops
the reasoning of assistant turns, and nothing would be left to learn. Results: docs/export.md.
"""

from __future__ import annotations

import argparse
import tempfile

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from batchr1.models.catalogue import variant

# As the prompt is rendered when traces are generated, then the reasoning, apart or inline, and the
# answer. The loss is taken over what stands between {% generation %} and {% endgeneration %}.
TEMPLATE = """{{ bos_token }}{% for message in messages %}{% if message.role == 'user' -%}
<｜User｜>{{ message.content }}
{%- else -%}
<｜Assistant｜>{% generation %}{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}{{ eos_token }}{% endgeneration %}
{%- endif %}{% endfor %}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", help="a folder that `batchr1 export --to sft` wrote")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    rows = load_dataset(args.export)
    folder = str(variant("r1-tiny").path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    print(tokenizer.apply_chat_template(rows["train"][0]["messages"], tokenize=False))
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            max_steps=args.steps,
            per_device_train_batch_size=8,
            learning_rate=1e-4,
            max_length=2048,
            assistant_only_loss=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
            args=config,
            train_dataset=rows["train"],
            eval_dataset=rows.get("test"),
            processing_class=tokenizer,
        )
        before = trainer.evaluate()["eval_loss"] if "test" in rows else None
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        print(
            f"{args.steps} steps over {rows['train'].num_rows} rows: loss {losses[0]:.4f} → "
            f"{losses[-1]:.4f}"
        )
        if before is not None:
            print(f"test split: loss {before:.4f} → {trainer.evaluate()['eval_loss']:.4f}")


if __name__ == "__main__":
    main()
