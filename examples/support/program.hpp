#pragma once
// What the programs share: the model's options, and errors as one line on standard error with exit status 1.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "support/device.hpp"
#include "support/session.hpp"

namespace program {

/// Parses the command line, runs `body`, and returns the exit status of the program.
template <class Body>
int run(CLI::App& app, int argc, char** argv, Body&& body) {
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& e) {
    return app.exit(e);
  }
  try {
    body();
    return 0;
  } catch (std::bad_alloc const&) {
    std::fprintf(stderr, "%s: out of memory\n", app.get_name().c_str());
    return 1;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), e.what());
    return 1;
  }
}

/// The command line as a shell would take it.
inline std::string command_line(int argc, char** argv) {
  std::string out;
  for (int i = 0; i < argc; ++i) {
    std::string const word = argv[i];
    bool const plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                            "-_=+:,./@%") == word.npos;
    std::string quoted = "'";
    for (char const c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
    out += (i ? " " : "") + (plain ? word : quoted + "'");
  }
  return out;
}

/// Adds the options that choose a model, its device and its scalar.
inline void add_model_options(CLI::App& app, ModelChoice& choice) {
  auto* const folder = app.add_option(
      "--model", choice.folder, "Folder of a checkpoint: config.json beside model.safetensors, its shards, or pytorch_model.bin");
  auto* const preset = app.add_option("--preset", choice.preset,
                                      "Size of a model with random weights: tiny, mamba-130m, blackmamba-340m-1.5b, "
                                      "blackmamba-630m-2.8b")
                           ->excludes(folder);
  folder->excludes(preset);
  app.add_option("--init-seed", choice.seed, "Seed of the random weights of --preset")->capture_default_str();
  app.add_option("--device", choice.device,
                 built_with_cuda ? "cpu (fast), reference (plain loops), or cuda: one NVIDIA GPU"
                                 : "cpu (fast) or reference (plain loops); this program was built without CUDA")
      ->capture_default_str();
  app.add_option("--dtype", choice.dtype, "Scalar that weights and activations are stored in: f64, f32, bf16, f16")
      ->capture_default_str();
  app.callback([&choice] {
    if (choice.folder.empty() && choice.preset.empty()) throw CLI::RequiredError("one of --model and --preset");
  });
}

}  // namespace program
