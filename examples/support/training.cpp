#include "support/training.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cmath>

#include <blackmamba/io/presets.hpp>
#include <blackmamba/layers/routers/list.hpp>

namespace program {

namespace {

/// What there is to choose from, for help and refusals alike.
template <class Value>
struct Choice {
  char const* name;
  Value value;
};
template <class Value, std::size_t N>
Value chosen(char const* what, Choice<Value> const (&choices)[N], std::string const& name) {
  std::string known;
  for (auto const& choice : choices) {
    if (name == choice.name) return choice.value;
    known += concat(known.empty() ? "" : ", ", choice.name);
  }
  throw value_error(concat("there is no ", what, " '", name, "'; there are: ", known));
}

struct Unit {
  bool gated;
  Activation activation;
};
constexpr Choice<Unit> units[]{{"geglu", {true, Activation::gelu_erf}},
                               {"swiglu", {true, Activation::silu}},
                               {"reglu", {true, Activation::relu}},
                               {"gelu", {false, Activation::gelu_erf}},
                               {"relu2", {false, Activation::relu_squared}}};
constexpr Choice<Keep> keeps[]{{"activations", Keep::activations}, {"inputs", Keep::inputs}};
constexpr Choice<BalanceScope> scopes[]{
    {"batch", BalanceScope::batch}, {"sequence", BalanceScope::sequence}, {"global", BalanceScope::global}};

template <class Number>
Number number(std::string const& spec, std::string const& text) {
  Number value{};
  auto const [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc{} || end != text.data() + text.size())
    throw value_error(concat("router '", spec, "': '", text, "' is no number that fits"));
  return value;
}

/// One "key=value" of a router.
void set_option(Dims& d, std::string const& spec, std::string const& key, std::string const& value) {
  auto& o = d.router;
  auto const index = [&] { return number<Index>(spec, value); };
  auto const real = [&] { return number<double>(spec, value); };
  if (key == "top_k") return void(d.top_k = index());
  if (key == "normalise") return void(o.normalise = index() != 0);
  if (key == "capacity") return void(o.capacity_factor = real());
  if (key == "z") return void(o.z_coefficient = real());
  if (key == "balance") return void(o.balance = real());
  if (key == "scope") return void(o.scope = chosen("scope", scopes, value));
  if (key == "rate") return void(o.rate = real());
  if (key == "average") return void(o.average = real());
  if (key == "groups") return void(o.groups = index());
  if (key == "groups_kept") return void(o.groups_kept = index());
  if (key == "iterations") return void(o.iterations = index());
  throw value_error(
      concat("router '", spec, "': there is no option '", key,
             "'; there are: top_k, normalise, capacity, z, balance, scope, rate, average, groups, groups_kept, iterations"));
}

Index warmup_of(TrainingSettings const& s) { return s.warmup >= 0 ? s.warmup : s.steps / 20; }

}  // namespace

void add_training_options(CLI::App& app, TrainingSettings& s) {
  auto const count = CLI::Range(Index{1}, Index{1} << 40);
  app.add_option("--preset", s.preset, "Size of the model: tiny, blackmamba-340m-1.5b, blackmamba-630m-2.8b")
      ->capture_default_str();
  app.add_option("--device", s.device,
                 built_with_cuda ? "cpu, or cuda: one NVIDIA GPU" : "cpu (this program was built without CUDA)")
      ->capture_default_str();
  app.add_option("--threads", s.threads, "Threads; the results do not depend on it. 0: all cores")->capture_default_str();
  app.add_option("--experts", s.experts, "Experts of a mixture layer; 0: as the preset has it")->capture_default_str();
  app.add_option("--top-k", s.top_k, "Experts that a token goes to; 0: as the preset has it")->capture_default_str();
  app.add_option("--shared-experts", s.shared, "Further experts that every token goes to")->capture_default_str();
  app.add_option("--d-ffn", s.d_ffn,
                 "Hidden width of an expert; 0: as the preset has it. Smaller with more --experts: fine-grained")
      ->capture_default_str();
  app.add_option("--unit", s.unit, "Inside of an expert: geglu, swiglu, reglu, gelu, relu2")->capture_default_str();
  app.add_option("--batch", s.batch, "Sequences of a pass")->check(count)->capture_default_str();
  app.add_option("--length", s.length, "Tokens of a sequence")->check(count)->capture_default_str();
  app.add_option("--passes", s.passes, "Passes that are added up for a step")->check(count)->capture_default_str();
  app.add_option("--steps", s.steps, "Steps in all")->check(count)->capture_default_str();
  app.add_option("--learning-rate", s.learning_rate, "At its peak")->capture_default_str();
  app.add_option("--schedule", s.schedule, "Course of the learning rate: constant, cosine, wsd (stable, then a decay of a fifth)")
      ->capture_default_str();
  app.add_option("--warmup", s.warmup, "Steps before the peak; -1: a twentieth of all")->capture_default_str();
  app.add_option("--final-share", s.final_share, "Learning rate at the end over its peak")->capture_default_str();
  app.add_option("--weight-decay", s.weight_decay, "Decoupled, of matrices only")->capture_default_str();
  app.add_option("--clip", s.clip, "Longest gradient; 0: any")->capture_default_str();
  app.add_option("--z-loss", s.z_coefficient, "Coefficient of the z-loss on the output's logits")->capture_default_str();
  app.add_option("--keep", s.keep, "What a pass keeps for its way back: activations (fast) or inputs (small)")
      ->capture_default_str();
  app.add_option("--held-out", s.held_out, "Share of the text that is not trained on")->capture_default_str();
  app.add_option("--evaluate-every", s.evaluate_every, "Steps between evaluations on held-out text; 0: ten times a run")
      ->capture_default_str();
  app.add_option("--evaluation-windows", s.evaluation_windows, "Sequences of an evaluation, spread over the held-out text; 0: all")
      ->capture_default_str();
}

io::ModelConfig configuration(TrainingSettings const& s, std::string const& router) {
  auto config = io::preset(s.preset);
  check_value(config.family == io::ModelConfig::Family::blackmamba && config.dims.n_experts > 0, "--preset", "'", s.preset,
              "' has no mixture layers, and so no router to train");
  auto const unit = chosen("unit", units, s.unit);
  config.gated = unit.gated, config.activation = unit.activation;
  Dims& d = config.dims;
  if (s.experts > 0) {
    d.n_experts = s.experts;
    for (auto& layer : config.layers)
      if (layer.feed_forward == io::FeedForward::mixture) layer.experts = s.experts;
  }
  if (s.top_k > 0) d.top_k = s.top_k;
  if (s.shared > 0) d.shared = s.shared;
  if (s.d_ffn > 0) d.d_ffn = s.d_ffn;

  std::string const name = router.substr(0, router.find(':'));
  d.router.kind = Routers::index(name);
  for (std::size_t at = name.size(); at < router.size();) {
    std::size_t const next = std::min(router.find(':', at + 1), router.size());
    auto const option = router.substr(at + 1, next - at - 1);
    auto const equals = option.find('=');
    check_value(equals != option.npos, "router", "'", router, "': '", option, "' is not key=value");
    set_option(d, router, option.substr(0, equals), option.substr(equals + 1));
    at = next;
  }
  check_dims(d);
  return config;
}

std::vector<std::pair<std::string, std::string>> described(TrainingSettings const& s) {
  std::vector<std::pair<std::string, std::string>> out;
  auto const add = [&](char const* name, auto const& value) { out.emplace_back(name, fmt::format("{}", value)); };
  add("preset", s.preset), add("device", s.device), add("dtype", s.dtype), add("unit", s.unit), add("experts", s.experts),
      add("top-k", s.top_k);
  add("shared-experts", s.shared), add("d-ffn", s.d_ffn), add("batch", s.batch), add("length", s.length), add("passes", s.passes);
  add("steps", s.steps), add("learning-rate", s.learning_rate), add("schedule", s.schedule), add("warmup", warmup_of(s));
  add("final-share", s.final_share), add("weight-decay", s.weight_decay), add("clip", s.clip), add("z-loss", s.z_coefficient);
  add("held-out", s.held_out);
  return out;
}

TrainerOptions trainer_options(TrainingSettings const& s) {
  TrainerOptions o;
  o.passes = s.passes;
  o.adamw.weight_decay = s.weight_decay, o.adamw.clip = s.clip;
  o.schedule = {.kind = schedule_from_name(s.schedule),
                .peak = s.learning_rate,
                .floor = s.learning_rate * s.final_share,
                .warmup = warmup_of(s),
                .steps = s.steps,
                .decay = s.steps / 5};
  o.z_coefficient = s.z_coefficient;
  o.keep = chosen("policy", keeps, s.keep);
  o.seed = s.seed;
  return o;
}

Text::Text(std::vector<std::string> const& paths, TrainingSettings const& s)
    : paths_{paths},
      corpus_{io::Corpus::open(std::vector<std::filesystem::path>(paths.begin(), paths.end()))},
      split_{split_source(corpus_, {.held_out = s.held_out})} {
  window_ = {.length = s.length, .sequences = s.batch};
  shuffle(s.seed);
  held_out_ = std::make_unique<EvaluationWindows<SourcePart<io::Corpus>>>(
      split_.held_out, EvaluationWindowOptions{.length = s.length, .sequences = s.batch, .windows = s.evaluation_windows});
}

void Text::shuffle(std::uint64_t seed) {
  window_.seed = seed;
  training_ = std::make_unique<TrainingWindows<SourcePart<io::Corpus>>>(split_.training, window_);
}

std::string Text::description() const {
  std::string where;
  for (auto const& path : paths_) where += concat(where.empty() ? "" : " ", path);
  return fmt::format("{}: {} files, {:.1f} million {}, {:.1f} % held out", where, corpus_.files(),
                     static_cast<double>(corpus_.tokens()) / 1e6, corpus_.is_bytes() ? "bytes" : "tokens",
                     100 * static_cast<double>(held_out_->tokens()) / static_cast<double>(corpus_.tokens()));
}

EvalRecord RunLoop::evaluate() {
  auto evaluation = training_.evaluate(last_evaluation_.layers.empty() ? nullptr : &last_evaluation_);
  EvalRecord record;
  record.step = training_.steps();
  record.tokens = record.step * settings_.passes * settings_.batch * settings_.length;
  record.loss = evaluation.loss;
  record.bits_per_byte = bytes_ ? evaluation.loss / std::log(2.0) : std::nan("");
  record.perplexity = std::exp(evaluation.loss);
  for (auto const& layer : evaluation.layers)
    record.layers.push_back({.layer = layer.layer, .churn = layer.churn, .moved = layer.moved, .counts = layer.counts});
  last_evaluation_ = std::move(evaluation);
  return record;
}

bool RunLoop::run(Index last, RunEvents const& events, std::function<bool(Index step)> const& before_next) {
  Index const every = settings_.evaluate_every > 0 ? settings_.evaluate_every : std::max<Index>(1, last / 10);
  Index const tokens = settings_.passes * settings_.batch * settings_.length;
  if (training_.steps() == 0) events.on_evaluation(evaluate());
  while (training_.steps() < last) {
    if (!before_next(training_.steps())) return false;
    auto const start = std::chrono::steady_clock::now();
    auto const report = training_.step();
    std::chrono::duration<double> const elapsed = std::chrono::steady_clock::now() - start;
    seconds += elapsed.count();
    StepRecord record;
    record.step = report.step, record.tokens = report.step * tokens, record.seconds = seconds;
    record.loss = report.loss, record.auxiliary = report.auxiliary, record.learning_rate = report.learning_rate;
    record.gradient_norm = report.gradient_norm, record.tokens_per_second = static_cast<double>(tokens) / elapsed.count();
    record.layers = training_.routing();
    events.on_step(record);
    if (training_.steps() % every == 0 || training_.steps() == last) events.on_evaluation(evaluate());
  }
  return true;
}

}  // namespace program
