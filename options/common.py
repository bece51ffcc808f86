"""The options that every method has."""

from options.option import (
    Option,
    boolean,
    bounded,
    data_set,
    folder,
    natural,
    positive,
    positive_float,
    resuming,
    weight,
)

COMMON = (
    Option("run", "phase", str, "train", "what to do", choices=("train", "test", "info", "export")),
    Option("run", "dataset", data_set, "cat2dog", "folder of --dataset_dir, or any path, that holds trainA and trainB, "
           "and testA and testB to translate", metavar="NAME"),
    Option("run", "result_dir", folder, "results", "where results/NAME is written", metavar="DIR"),
    Option("run", "resume", resuming, False, "continue from the newest valid checkpoint; auto: where there is one"),
    Option("run", "checkpoint", folder, None, "continue or translate with this checkpoint; best and latest are the "
           "run's own", metavar="FILE"),
    Option("run", "device", str, None, "cuda, cuda:1, mps or cpu; by default the best present", metavar="DEVICE"),
    Option("run", "seed", natural, 0, "of the initial weights, the order of pictures and random codes"),
    Option("run", "benchmark_flag", boolean, False, "let cuDNN time its algorithms (fixed sizes: faster)"),
    Option("run", "raw_weights", boolean, False, "translate with the weights themselves, also where --ema has kept "
           "their average"),
    Option("run", "keep_size", boolean, False, "translate at each picture's own size, where the networks can"),
    Option("run", "direction", str, None, "translate only this way; methods of one direction learn it",
           choices=("AtoB", "BtoA")),
    Option("run", "input", folder, None, "with --phase test: translate this picture, all pictures below this folder, "
           "or those of a 'pattern' with * and ?, in place of the test folders; each at its own size, unless "
           "--keep_size false", metavar="FILE|FOLDER|GLOB"),
    Option("run", "output", folder, None, "the folder that translations of --input are written to; of --phase export "
           "the file, or its folder", metavar="PATH"),
    Option("run", "tile", natural, None, "rows of a picture that are translated at a time; 0: all of them. By default "
           "all that memory allows. Normalisations and pooling take their statistics of the whole picture, summed over "
           "all tiles beforehand: the result is the same but for rounding", metavar="ROWS"),
    Option("run", "format", str, "weights", "of --phase export: weights for this program; onnx; pt2 for torch.export",
           choices=("weights", "onnx", "pt2")),
    Option("run", "half", boolean, False, "export weights in half precision (computing stays in float32)"),
    Option("data", "dataset_dir", folder, "dataset", "where the data sets are", metavar="DIR"),
    Option("data", "img_size", positive, 256, "pictures are trained as squares of this side, in pixels"),
    Option("data", "img_ch", positive, 3, "channels: 3 for colour, 1 for grey", choices=(1, 3)),
    Option("data", "batch_size", positive, 1, "pictures of each domain in a step, per process"),
    Option("data", "num_workers", bounded(int, 0, 256), 2,
           "processes that read and decode pictures; 0: in the main one"),
    Option("data", "cache", boolean, False, "keep decoded pictures in memory, where they fit"),
    Option("data", "skip_bad_images", boolean, False, "leave unreadable pictures out instead of stopping"),
    Option("model", "ch", positive, 64, "base channels"),
    Option("optimisation", "iteration", positive, 100_000, "training steps"),
    Option("optimisation", "lr", positive_float, 1e-4, "learning rate"),
    Option("optimisation", "weight_decay", weight, 0.0, "L2 penalty in the gradient"),
    Option("optimisation", "decay_flag", boolean, True, "let the learning rate fall as the method's authors do"),
    Option("optimisation", "grad_accum", positive, 1, "micro-batches of batch_size pictures averaged into one step"),
    Option("optimisation", "ema", bounded(float, 0, 0.999999), 0.0, "keep a moving average of the weights that "
           "translate, which then translates and is scored, such as 0.999; 0: none"),
    Option("optimisation", "on_nan", str, "stop", "at a loss or gradient that is not finite",
           choices=("stop", "skip")),
    Option("logging", "print_freq", positive, 1000, "steps between sample grids and latest checkpoints"),
    Option("logging", "save_freq", positive, 100_000, "steps between numbered checkpoints"),
    Option("logging", "log_freq", positive, 100, "steps between lines of log.jsonl"),
    Option("logging", "keep", natural, 0, "keep only the last KEEP numbered checkpoints; 0: all", metavar="KEEP"),
    Option("logging", "score_freq", natural, 0, "steps between scores of the translated test pictures, also made at "
           "the end; 20 times scoring_seconds x steps_per_second of the log cost 5%% of the time; 0: none"),
    Option("logging", "best", str, None, "the score whose best step is kept in results/NAME_params_best.pt, such as "
           "kid_B2A; by default the mean KID, or the KD where Inception's weights are missing", metavar="SCORE"),
    Option("logging", "tensorboard", boolean, False, "write losses, scores and samples for TensorBoard as well"),
    Option("scale", "amp", str, "none", "mixed precision", choices=("none", "bf16", "fp16")),
    Option("scale", "compile", boolean, False, "compile each half of a step as one graph: less than two minutes at the "
           "first start on two cores, half of one at later ones; for a GPU: a CPU's steps take half as long again"),
    Option("scale", "graphs", boolean, None, "replay each step as one CUDA graph, so that no GPU waits for Python; by "
           "default wherever that can be"),
    Option("scale", "plain", boolean, False, "compute every layer by its definition: slower, the same numbers"),
)  # fmt: skip
