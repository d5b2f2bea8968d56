"""A kind of data in one file: textures, whose samples are written as text and whose figure is their contrast."""

from pathlib import Path

from pipelines.kinds.base import Items, Kind


class Texture(Kind):
    """uint8 (1, h, w)."""

    name = "texture"
    sample_flags = ("columns",)

    def show(self, model, batch, labels, example, log, step):
        made = model.evaluate(batch.x, labels).reconstruction
        log.image(step, "validation", made[0].expand(3, -1, -1).cpu())

    def code_fields(self, batch, codes, data):
        return {"contrast": batch.x.float().flatten(1).std(1).to(codes.dtype)[:, None, None, None]}

    def add_sample_flags(self, parser):
        parser.add_argument("--columns", type=int, help="columns of codes that are drawn; the others are zeros")

    def sampler_options(self, loaded, **flags):
        import torch

        spec = loaded.stage2.codes
        local = torch.full((1, 1, *[1] * len(spec.grid)), 40.0)
        if (columns := flags.get("columns")) is None:
            return {"local": local}
        known = loaded.stage1.module.encode(torch.zeros(1, *loaded.stage1.example.shape, dtype=torch.uint8))
        known[:, :, :columns] = -1
        return {"local": local, "known": known}

    def write_samples(self, folder: Path, samples, example) -> Path:
        for number, texture in enumerate(samples.x):
            rows = (" ".join(map(str, row)) for row in texture[0].tolist())
            (folder / f"{number:05d}.txt").write_text("\n".join(rows) + "\n")
        return folder / "00000.txt"

    def read(self, loaded, x) -> Items:
        return Items(x[None] if x.ndim == 3 else x, single=x.ndim == 3)

    @property
    def evaluation(self):
        return self

    def check(self, subject):
        """Every run on textures can be measured."""

    def figures(self, measured, subject, shared):
        from pipelines.evaluation.reconstructions import reconstruction_figures

        contrast = float(measured.reconstructions.float().std())
        return {"contrast": contrast, **reconstruction_figures(measured, subject, subject.data.variance, {})}

    def rows(self, result):
        from pipelines.evaluation.reconstructions import reconstruction_rows

        return [("contrast", result["contrast"], ".2f"), *reconstruction_rows("texture", result)]

    def draw(self, measured, subject, result):
        return {}
