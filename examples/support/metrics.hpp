#pragma once
// What a comparison of routers measured, and its file: JSON Lines, one record a line, each on the disk's way before training goes
// on. docs/guide/report.md has the fields.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <blackmamba/train/specialisation.hpp>
#include <blackmamba/train/telemetry.hpp>

namespace program {

using namespace blackmamba;

/// One optimiser step of one run.
struct StepRecord {
  Index step = 0;        ///< steps done, this one included
  Index tokens = 0;      ///< trained on so far, over all steps
  double seconds = 0;    ///< of training so far, evaluations excluded
  double loss = 0;       ///< nats a token, without what the routers add
  double auxiliary = 0;  ///< what they add
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping
  double tokens_per_second = 0;
  std::vector<RoutingStats> layers;  ///< mixture layers only, in order
};

/// What an evaluation says of one mixture layer.
struct LayerEval {
  Index layer = 0;
  std::optional<double> churn;  ///< share of tokens whose experts changed since the evaluation before; absent at the first
  std::optional<double> moved;  ///< share of tokens whose experts would be others in training
  std::vector<Index> counts;    ///< (E, byte_classes) row-major; empty where the text is not bytes
};

/// One evaluation on held-out text.
struct EvalRecord {
  Index step = 0, tokens = 0;  ///< as in `StepRecord`: trained on so far
  double loss = 0;             ///< nats a token
  double bits_per_byte = 0;
  double perplexity = 0;
  std::vector<LayerEval> layers;
};

/// One router with one seed.
struct Run {
  std::string router;
  std::uint64_t seed = 0;
  Index parameters = 0;         ///< all of the model
  Index active_parameters = 0;  ///< those that a token uses
  std::vector<StepRecord> steps;
  std::vector<EvalRecord> evals;
  double seconds = 0;   ///< of the whole run
  std::string stopped;  ///< why it ended: "finished", or a sentence; empty while it runs
};

/// All of it, with what reproduces it.
struct Comparison {
  std::vector<std::pair<std::string, std::string>> settings;  ///< in the order to show them
  std::string command;                                        ///< the command line
  std::string data;                                           ///< what the text is
  double unigram_entropy_bits = 0;  ///< of its bytes: what a model reaches that knows their frequencies only
  std::vector<Run> runs;
};

/// Writes metrics.jsonl. Throws `file_error` naming the file and the reason.
class MetricsWriter {
 public:
  /// A new file, or with `append` a file that goes on: what a kill left of its last line is cut off first.
  MetricsWriter(std::string path, bool append = false);

  void begin(Comparison const& comparison);  ///< its settings, not its runs
  void begin(Run const& run);
  void step(Run const& run, StepRecord const& record);
  void eval(Run const& run, EvalRecord const& record);
  void end(Run const& run);

 private:
  void line(std::string const& text);

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// Reads what `MetricsWriter` wrote. A last line without its end is left out. Where a run was resumed, records of steps that were
/// done again replace the earlier ones. Throws `file_error` naming file, line and reason.
Comparison read_metrics(std::string const& path);

}  // namespace program
