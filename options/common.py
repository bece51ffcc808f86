"""The options that every method has."""

from options.option import (
    Option,
    boolean,
    bounded,
    data_set,
    direction,
    folder,
    natural,
    positive,
    positive_float,
    preprocess,
    resuming,
    weight,
)

# of --phase export, and the suffix of its files
FORMATS = {"weights": ".pt", "folder": "", "onnx": ".onnx", "pt2": ".pt2", "html": ".html"}

COMMON = (
    Option("run", "phase", str, "train", "train, translate pictures (test), report the cost of training (info), or "
           "write a model file (export)", choices=("train", "test", "info", "export")),
    Option("run", "dataset", data_set, "cat2dog", "the data set: a folder below --dataset_dir, or any path, that "
           "contains trainA and trainB, and testA and testB to translate", metavar="NAME"),
    Option("run", "result_dir", folder, "results", "folder for checkpoints, samples and translations", metavar="DIR"),
    Option("run", "resume", resuming, False, "continue from the newest valid checkpoint; auto: start a new run if "
           "there is none"),
    Option("run", "checkpoint", folder, None, "checkpoint to continue or translate with; best and latest stand for "
           "the run's own", metavar="FILE"),
    Option("run", "init_from", folder, None, "start a new run, also on other data, from the weights of this "
           "checkpoint, model or folder, of this program or of a method's authors; networks that it lacks start anew",
           metavar="FILE"),
    Option("data", "img_size", positive, 256, "height and width of training pictures, in pixels"),
    Option("data", "batch_size", positive, 1, "pictures of each domain in a batch, per process"),
    Option("optimisation", "iteration", positive, 100_000, "number of training steps"),
    Option("optimisation", "epochs", positive_float, None, "number of training steps as epochs of the larger domain, "
           "instead of --iteration"),
    Option("run", "device", str, None, "cuda, cuda:1, mps or cpu (default: the best available)", metavar="DEVICE"),
    Option("run", "seed", natural, 0, "seed of the initial weights, the order of pictures, and random styles and "
           "noise"),
    Option("run", "direction", direction, None, "AtoB: from pictures like trainA to pictures like trainB; BtoA: the "
           "reverse; methods of one direction also train it (default: all directions of the method)",
           choices=("AtoB", "BtoA")),
    Option("run", "input", folder, None, "with --phase test: translate this picture, all pictures below this "
           "folder, or those of a quoted pattern with * and ?, instead of the test folders; each at its own size "
           "unless --keep_size false", metavar="FILE|FOLDER|GLOB"),
    Option("run", "output", folder, None, "folder for the translations of --input; with --phase export: the "
           "model file, or its folder", metavar="PATH"),
    Option("run", "keep_size", boolean, False, "translate each picture at its own size, if the networks allow "
           "it"),
    Option("run", "longest", positive, None, "with --input: shrink larger pictures to this length of the longer side, "
           "in pixels; proportions are kept", metavar="N"),
    Option("run", "shortest", positive, None, "the same for the shorter side", metavar="N"),
    Option("run", "png", boolean, False, "write translations as PNG files, whatever the format of the inputs"),
    Option("run", "replace", boolean, False, "with --phase test: delete the earlier translations of the test folders, "
           "which are otherwise moved to results/NAME/previous_1, ..."),
    Option("run", "raw_weights", boolean, False, "use the raw weights instead of the EMA weights"),
    Option("run", "keep_metadata", boolean, False, "with --input: keep EXIF's date, rights and resolution"),
    Option("run", "deep", boolean, False, "with --phase test: read pictures of more than 8 bits a band at their full "
           "depth, and write 16 bits, as PNG or TIFF files, in the scale of the training pictures"),
    Option("run", "tile", natural, None, "number of rows of a picture to translate at a time; 0: all rows; the "
           "result differs by rounding only, since statistics are computed over the whole picture (default: as many as "
           "fit in memory)", metavar="ROWS"),
    Option("run", "format", str, "weights", "with --phase export: weights for this program, folder (the same in "
           "safetensors, with a model card), onnx, pt2 for torch.export, or html for a page that translates in a "
           "browser", choices=(*FORMATS,)),
    Option("run", "half", boolean, False, "export weights in half precision; computation stays in float32; html "
           "always has them"),
    Option("run", "ort", folder, None, "with --format html: the folder dist of the npm package onnxruntime-web "
           "(default: npm fetches it once)"),
    Option("run", "diagram", folder, None, "with --phase info: draw the networks, their shapes, parameters and what "
           "trains them into this SVG file", metavar="FILE.svg"),
    Option("run", "opset", bounded(int, 18, 24), 18, "with --format onnx: the version of ONNX's operators"),
    Option("data", "dataset_dir", folder, "dataset", "folder of the data sets", metavar="DIR"),
    Option("data", "img_ch", positive, 3, "channels of a picture: 3 for colour, 1 for grey", choices=(1, 3)),
    Option("data", "preprocess", preprocess, "resize_and_crop", "scale of training pictures before the random crop of "
           "img_size: resize_and_crop, a square of load_size; scale_and_crop, the shorter side load_size and the "
           "proportions kept; crop, their own scale"),
    Option("data", "load_size", positive, None, "side of training pictures before the crop (default: the method's)"),
    Option("data", "flip", boolean, True, "mirror half of the training pictures; false: for letters or traffic, whose "
           "left and right differ"),
    Option("data", "sampling", str, "shuffle", "order of training pictures: shuffle, each once an epoch in both "
           "domains; cyclegan, an epoch of the larger domain's length, A by number modulo its count, B with "
           "replacement; drit, the larger domain shuffled, the smaller with replacement",
           choices=("shuffle", "cyclegan", "drit")),
    Option("data", "num_workers", bounded(int, 0, 256), 2,
           "threads that read and decode pictures; 0: the main thread"),
    Option("data", "cache", boolean, False, "keep decoded pictures in memory, if they fit"),
    Option("data", "max_pixels", positive, 128_000_000, "refuse larger pictures, as hostile files are"),
    Option("data", "shrink_jpegs", boolean, False, "in training decode JPEG files of more than --max_pixels at a half, "
           "a quarter or an eighth, which also takes less time, instead of refusing them"),
    Option("data", "skip_bad_images", boolean, False, "skip unreadable pictures instead of stopping"),
    Option("data", "hold_out", bounded(float, 0, 0.9), 0.0, "share of the training pictures that are not trained on; "
           "they choose the best checkpoint, such as 0.1. valA and valB do so where the data set has them",
           metavar="SHARE"),
    Option("model", "ch", positive, 64, "base number of channels"),
    Option("optimisation", "lr", positive_float, 1e-4, "learning rate"),
    Option("optimisation", "weight_decay", weight, 0.0, "weight of the L2 penalty, added to the gradient"),
    Option("optimisation", "decay_flag", boolean, True, "decay the learning rate as the method's authors do"),
    Option("optimisation", "grad_accum", positive, 1, "micro-batches of batch_size pictures to average into one step"),
    Option("optimisation", "ema", bounded(float, 0, 0.999999), 0.0, "decay of an exponential moving average (EMA) of "
           "the weights, such as 0.999; translations and scores then use the average; 0: no average"),
    Option("optimisation", "on_nan", str, "stop", "what to do if a loss or gradient is not finite: stop the run, or "
           "skip the update", choices=("stop", "skip")),
    Option("logging", "print_freq", positive, 1000, "steps between sample grids, and between latest checkpoints"),
    Option("logging", "save_freq", positive, 100_000, "steps between numbered checkpoints"),
    Option("logging", "log_freq", positive, 100, "steps between lines of log.jsonl"),
    Option("logging", "keep", natural, 0, "keep only the last N numbered checkpoints; 0: all", metavar="N"),
    Option("logging", "score_freq", natural, 0, "steps between scores of the translated test pictures; the last step "
           "is scored too; 20 x scoring_seconds x steps_per_second of log.jsonl costs 5%% of the time; 0: no scores"),
    Option("logging", "best", str, None, "score whose best step is kept as results/NAME_params_best.pt, such as "
           "kid_B2A (default: the mean KID, or the mean KD if Inception's weights are missing)", metavar="SCORE"),
    Option("logging", "tensorboard", boolean, False, "write losses, scores and samples for TensorBoard as well"),
    Option("scale", "threads", natural, 0, "CPU threads of a training; 0: one for small pictures and networks, else "
           "all cores; the number of threads changes how sums are rounded", metavar="N"),
    Option("scale", "amp", str, "none", "mixed precision in training and translation; auto: bf16 where the processor's "
           "instructions make it pay, else none", choices=("none", "bf16", "fp16", "auto")),
    Option("scale", "benchmark_flag", boolean, False, "let cuDNN time its algorithms and use the fastest; pays off "
           "when sizes are fixed"),
    Option("scale", "compile", boolean, False, "compile each update of a step as one graph, for GPUs; the first start "
           "takes minutes, and on a CPU steps get slower"),
    Option("scale", "graphs", boolean, None, "replay each step as one CUDA graph, so that the GPU never waits for "
           "Python (default: wherever possible)"),
    Option("scale", "plain", boolean, False, "compute every layer by its definition: slower, with the same numbers"),
)  # fmt: skip
