"""A script for diffusers' `DiTPipeline`, in which the class and the name of the model are others, and nothing else.

from diffusers import DiTPipeline
DiTPipeline.from_pretrained("facebook/DiT-XL-2-256", ...)
"""

import torch

from flowar import FlowARPipeline


def main() -> None:
    pipe = FlowARPipeline.from_pretrained("flowar-fashion", torch_dtype=torch.float32)
    pipe = pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)

    words = list(pipe.labels)[:3]
    class_ids = pipe.get_label_ids(words)
    generator = torch.manual_seed(33)
    output = pipe(class_labels=class_ids, guidance_scale=4.0, num_inference_steps=25, generator=generator)
    for number, (word, image) in enumerate(zip(words, output.images, strict=True)):
        image.save(f"{number}.png")
        print(f"{word} ({class_ids[number]}): {image.width}x{image.height} in {number}.png")

    # The same pictures from the same seed, as an array [3, H, W, C] in [0, 1]; then a generator for every picture.
    generator = torch.manual_seed(33)
    options = {"guidance_scale": 4.0, "num_inference_steps": 25}
    again = pipe(class_labels=class_ids, generator=generator, output_type="np", **options).images
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    (images,) = pipe(class_labels=class_ids, generator=generators, return_dict=False, **options)
    print(f"an array {again.shape} from {again.min():.2f} to {again.max():.2f}, and {len(images)} other pictures")


if __name__ == "__main__":
    main()
