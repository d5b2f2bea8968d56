"""Figures of what latents mean: the plane of two dimensions, traversals, the codebook.

    python pipelines/plot_latents.py --run runs/mnist_vae_2d
    python pipelines/plot_latents.py --run mnist --data-root FOLDER

For runs with two latent dimensions: a scatter plot of the split, coloured by class, and a plane of decodings over the
rectangle that holds most points. An AE's plane has gaps, a VAE's has none (Kingma and Welling, arXiv 1312.6114, figure
4). Traversals vary one latent of a real example, or one of its codes. The codebook: each code decoded on a 1x1 grid,
above the same code in the middle of a real example.
"""

import argparse

from pipelines.commands.flags import VerbParser, add_data_flag, add_run_flags, opened_run
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    add_data_flag(parser)
    parser.add_argument("--split", help="split of the data (default: test where the data have one, else validation)")
    parser.add_argument("--example", type=int, default=0,
                        help="number of the example whose latents are varied (default: 0)")
    add_run_flags(parser, "RUN/figures")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load) as run:
        figures = run.plot_latents(arguments.out or run.outputs / "figures", data_root=arguments.data_root,
                                   split=arguments.split, example=arguments.example, seed=arguments.seed,
                                   batch_size=arguments.batch_size)
    print("\n".join(f"{title:<34}{path}" for title, path in figures.items()))


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
