#pragma once
// A training run behind one run-time interface: the programs choose sizes, router, device and scalar on the command line. Every
// device and scalar is a translation unit of its own.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <blackmamba/io/corpus.hpp>
#include <blackmamba/io/model_config.hpp>
#include <blackmamba/train/trainer.hpp>

#include "support/device.hpp"
#include "support/metrics.hpp"

namespace CLI {
class App;
}

namespace program {

/// What a run is, but for its text and its router. Every option has a name on the command line.
struct TrainingSettings {
  std::string preset = "tiny", device = "cpu", dtype = "f32", unit = "geglu", schedule = "cosine", keep = "activations";
  int threads = 0;                                      ///< 0: all
  Index experts = 0, top_k = 0, shared = 0, d_ffn = 0;  ///< 0: as the preset has it
  Index batch = 8, length = 256, passes = 1;
  Index steps = 200, warmup = -1;  ///< -1: a twentieth of the steps
  double learning_rate = 3e-3, final_share = 0.1, weight_decay = 0.1, clip = 1.0, z_coefficient = 0, held_out = 0.05;
  Index evaluate_every = 0;  ///< 0: ten times a run
  Index evaluation_windows = 32;
  std::uint64_t seed = 0;
};

/// Adds their options to a program.
void add_training_options(CLI::App& app, TrainingSettings& settings);

/// The network that they describe, with a router as the command line writes it: a name, and what of its options is not the usual,
/// "bias:rate=0.01:top_k=2". Throws `value_error` naming what there is not.
io::ModelConfig configuration(TrainingSettings const& settings, std::string const& router);

/// The settings by name, as text: what a resumed run must have in common with the one before it, and what a report shows.
std::vector<std::pair<std::string, std::string>> described(TrainingSettings const& settings);

/// Text, split into what is learnt from and what is held out.
class Text {
 public:
  Text(std::vector<std::string> const& paths, TrainingSettings const& settings);

  io::Corpus const& corpus() const { return corpus_; }
  TrainingWindows<SourcePart<io::Corpus>> const& training() const { return *training_; }
  EvaluationWindows<SourcePart<io::Corpus>> const& held_out() const { return *held_out_; }

  /// Another order of the training windows.
  void shuffle(std::uint64_t seed);

  /// What the text is, for a person.
  std::string description() const;

 private:
  std::vector<std::string> paths_;
  io::Corpus corpus_;
  SourceSplit<io::Corpus> split_;
  TrainingWindowOptions window_{};
  std::unique_ptr<TrainingWindows<SourcePart<io::Corpus>>> training_;
  std::unique_ptr<EvaluationWindows<SourcePart<io::Corpus>>> held_out_;
};

/// A model in training.
class Training {
 public:
  virtual ~Training() = default;
  virtual ParameterCount parameters() const = 0;
  virtual int threads() const = 0;
  virtual MemoryPlan plan() = 0;

  virtual Index steps() const = 0;
  virtual StepReport step() = 0;
  virtual std::vector<RoutingStats> const& routing() const = 0;
  virtual Evaluation evaluate(Evaluation const* before) = 0;

  /// The loss on the next batch, from which nothing is learnt: not finite if the weights are broken.
  virtual double next_loss() = 0;

  /// Writes config.json, model.safetensors, optimiser.safetensors below a folder, and reads them back.
  virtual void save(std::filesystem::path const& folder) = 0;
  virtual void load(std::filesystem::path const& folder, Index steps) = 0;
};

/// What the library's trainer is told.
TrainerOptions trainer_options(TrainingSettings const& settings);

/// Begins a run in the scalar and on the device that the settings name. The text must outlive it.
std::unique_ptr<Training> begin_training(TrainingSettings const& settings, io::ModelConfig const& config, Text const& text);

/// The same with the scalar fixed.
template <class T>
std::unique_ptr<Training> begin_training_in(TrainingSettings const& settings, io::ModelConfig const& config, Text const& text);

/// The same with the device fixed too: instantiated in training_*.cpp.
template <class T, class Ctx>
std::unique_ptr<Training> begin_training_as(TrainingSettings const& settings, io::ModelConfig const& config, Text const& text);

template <class T>
std::unique_ptr<Training> begin_training_in(TrainingSettings const& settings, io::ModelConfig const& config, Text const& text) {
  if (settings.device == "cpu") return begin_training_as<T, Cpu>(settings, config, text);
  if constexpr (built_with_cuda && !std::is_same_v<T, double>)
    if (settings.device == "cuda") return begin_training_as<T, Cuda>(settings, config, text);
  if (built_with_cuda && settings.device == "cuda") throw value_error("training in f64 is for the CPU: give --dtype f32");
  refuse_device(settings.device, "cpu");
}

/// What `described` would be told of a run's course, step by step, and kept: used by both programs.
struct RunEvents {
  std::function<void(StepRecord const&)> on_step;
  std::function<void(EvalRecord const&)> on_evaluation;
};

/// Trains until `last` steps are done: tells every step, and an evaluation every `every` steps and after the last. `before_next`
/// runs between steps and may end the run by returning false.
class RunLoop {
 public:
  RunLoop(Training& training, TrainingSettings const& settings, bool bytes)
      : training_{training}, settings_{settings}, bytes_{bytes} {}

  /// Seconds and evaluation of a run that goes on.
  double seconds = 0;

  bool run(Index last, RunEvents const& events, std::function<bool(Index step)> const& before_next);

 private:
  EvalRecord evaluate();

  Training& training_;
  TrainingSettings const& settings_;
  bool bytes_;
  Evaluation last_evaluation_{};
};

}  // namespace program
