#include "support/metrics.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include <nlohmann/json.hpp>

namespace program {

namespace {

using Json = nlohmann::ordered_json;

/// A number; null where it is none, as JSON has no NaN.
double number(Json const& value) { return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>(); }

Json from_optional(std::optional<double> const& value) { return value ? Json(*value) : Json(nullptr); }
std::optional<double> to_optional(Json const& value) {
  if (value.is_null()) return std::nullopt;
  return value.get<double>();
}

Json to_json(RoutingStats const& s) {
  return {{"layer", s.layer},
          {"tokens", s.tokens},
          {"load", s.load},
          {"max_load", s.balance.max_load},
          {"min_load", s.balance.min_load},
          {"variation", s.balance.variation},
          {"max_vio", s.balance.max_vio},
          {"gini", s.balance.gini},
          {"entropy", s.balance.entropy},
          {"dead", s.balance.dead},
          {"confidence", s.confidence},
          {"margin", s.margin},
          {"logit_rms", s.logit_rms},
          {"dropped", s.dropped},
          {"unrouted", s.unrouted},
          {"loss", s.loss},
          {"z_loss", s.z_loss},
          {"iterations", s.iterations},
          {"marginal_error", s.marginal_error},
          {"moved", from_optional(s.moved)}};
}

RoutingStats to_stats(Json const& j) {
  RoutingStats s;
  s.layer = j.at("layer"), s.tokens = j.at("tokens"), s.load = j.at("load").get<std::vector<Index>>();
  s.balance = load_balance(s.load);
  s.confidence = number(j.at("confidence")), s.margin = number(j.at("margin")), s.logit_rms = number(j.at("logit_rms"));
  s.dropped = j.at("dropped"), s.unrouted = j.at("unrouted");
  s.loss = number(j.at("loss")), s.z_loss = number(j.at("z_loss"));
  s.iterations = j.at("iterations"), s.marginal_error = number(j.at("marginal_error"));
  s.moved = to_optional(j.at("moved"));
  return s;
}

Json to_json(LayerEval const& e) {
  Json rows = Json::array();
  for (auto at = e.counts.begin(); at != e.counts.end(); at += byte_classes)
    rows.push_back(std::vector<Index>(at, at + byte_classes));
  return {{"layer", e.layer}, {"churn", from_optional(e.churn)}, {"moved", from_optional(e.moved)}, {"experts_by_class", rows}};
}

LayerEval to_layer_eval(Json const& j) {
  LayerEval e;
  e.layer = j.at("layer"), e.churn = to_optional(j.at("churn")), e.moved = to_optional(j.at("moved"));
  for (auto const& row : j.at("experts_by_class")) {
    if (static_cast<Index>(row.size()) != byte_classes)
      throw value_error(concat("a row of experts_by_class has ", row.size(), " counts, not ", byte_classes));
    for (auto const& count : row) e.counts.push_back(count.get<Index>());
  }
  return e;
}

StepRecord to_step(Json const& j) {
  StepRecord r;
  r.step = j.at("step"), r.tokens = j.at("tokens"), r.seconds = number(j.at("seconds"));
  r.loss = number(j.at("loss")), r.auxiliary = number(j.at("auxiliary"));
  r.learning_rate = number(j.at("learning_rate")), r.gradient_norm = number(j.at("gradient_norm"));
  r.tokens_per_second = number(j.at("tokens_per_second"));
  for (auto const& layer : j.at("layers")) r.layers.push_back(to_stats(layer));
  return r;
}

EvalRecord to_eval(Json const& j) {
  EvalRecord r;
  r.step = j.at("step"), r.tokens = j.at("tokens");
  r.loss = number(j.at("loss")), r.bits_per_byte = number(j.at("bits_per_byte")), r.perplexity = number(j.at("perplexity"));
  for (auto const& layer : j.at("layers")) r.layers.push_back(to_layer_eval(layer));
  return r;
}

/// The beginning of every record of a run.
Json of_run(char const* record, Run const& run) { return {{"record", record}, {"router", run.router}, {"seed", run.seed}}; }

std::string text(Json const& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// Adds what one line says.
void read_line(Comparison& out, Json const& j) {
  auto const record = j.at("record").get<std::string>();
  if (record == "comparison") {
    out.settings.clear();
    for (auto const& [name, value] : j.at("settings").items()) out.settings.emplace_back(name, value.get<std::string>());
    out.command = j.at("command"), out.data = j.at("data");
    out.unigram_entropy_bits = number(j.at("unigram_entropy_bits"));
    return;
  }
  auto const router = j.at("router").get<std::string>();
  auto const seed = j.at("seed").get<std::uint64_t>();
  auto const is_it = [&](Run const& run) { return run.router == router && run.seed == seed; };
  auto at = std::find_if(out.runs.begin(), out.runs.end(), is_it);
  if (record == "run") {
    if (at == out.runs.end()) at = out.runs.emplace(at);
    at->router = router, at->seed = seed;
    at->parameters = j.at("parameters"), at->active_parameters = j.at("active_parameters");
    at->seconds = 0, at->stopped.clear();
    return;
  }
  if (at == out.runs.end()) throw value_error(concat("a record of a run that has not begun: ", router, " with seed ", seed));
  // What a run that was resumed does again takes the place of what it had done.
  auto const forget = [](auto& records, Index from) {
    while (!records.empty() && records.back().step >= from) records.pop_back();
  };
  if (record == "step") {
    auto const step = to_step(j);
    forget(at->steps, step.step), forget(at->evals, step.step);
    at->steps.push_back(step);
  } else if (record == "eval") {
    auto const eval = to_eval(j);
    forget(at->steps, eval.step + 1), forget(at->evals, eval.step);
    at->evals.push_back(eval);
  } else if (record == "end") {
    at->seconds = number(j.at("seconds")), at->stopped = j.at("stopped");
  } else {
    throw value_error(concat("a record \"", record, "\", which there is not"));
  }
}

/// The bytes up to and with the last line end.
std::uintmax_t whole_lines(std::string const& path) {
  std::ifstream file{path, std::ios::binary};
  std::uintmax_t end = 0;
  for (std::string line; std::getline(file, line) && !file.eof();) end += line.size() + 1;
  return end;
}

}  // namespace

MetricsWriter::MetricsWriter(std::string path, bool append) : path_{std::move(path)} {
  std::error_code failed;
  if (append && std::filesystem::exists(path_, failed)) std::filesystem::resize_file(path_, whole_lines(path_), failed);
  if (failed) throw file_error(concat(path_, ": cannot be continued: ", failed.message()));
  file_.reset(std::fopen(path_.c_str(), append ? "ab" : "wb"));
  if (!file_) throw file_error(concat(path_, ": cannot be written: ", std::strerror(errno)));
}

void MetricsWriter::line(std::string const& line) {
  errno = 0;
  bool const written = std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size();
  if (!written || std::fputc('\n', file_.get()) == EOF || std::fflush(file_.get()) != 0)
    throw file_error(concat(path_, ": cannot be written: ", std::strerror(errno)));
}

void MetricsWriter::begin(Comparison const& c) {
  Json settings = Json::object();
  for (auto const& [name, value] : c.settings) settings[name] = value;
  line(text({{"record", "comparison"},
             {"settings", settings},
             {"command", c.command},
             {"data", c.data},
             {"unigram_entropy_bits", c.unigram_entropy_bits}}));
}

void MetricsWriter::begin(Run const& run) {
  Json j = of_run("run", run);
  j["parameters"] = run.parameters, j["active_parameters"] = run.active_parameters;
  line(text(j));
}

void MetricsWriter::step(Run const& run, StepRecord const& r) {
  Json j = of_run("step", run);
  j["step"] = r.step, j["tokens"] = r.tokens, j["seconds"] = r.seconds;
  j["loss"] = r.loss, j["auxiliary"] = r.auxiliary, j["learning_rate"] = r.learning_rate;
  j["gradient_norm"] = r.gradient_norm, j["tokens_per_second"] = r.tokens_per_second;
  j["layers"] = Json::array();
  for (auto const& layer : r.layers) j["layers"].push_back(to_json(layer));
  line(text(j));
}

void MetricsWriter::eval(Run const& run, EvalRecord const& r) {
  Json j = of_run("eval", run);
  j["step"] = r.step, j["tokens"] = r.tokens;
  j["loss"] = r.loss, j["bits_per_byte"] = r.bits_per_byte, j["perplexity"] = r.perplexity;
  j["layers"] = Json::array();
  for (auto const& layer : r.layers) j["layers"].push_back(to_json(layer));
  line(text(j));
}

void MetricsWriter::end(Run const& run) {
  Json j = of_run("end", run);
  j["seconds"] = run.seconds, j["stopped"] = run.stopped;
  line(text(j));
}

Comparison read_metrics(std::string const& path) {
  std::ifstream file{path, std::ios::binary};
  if (!file) throw file_error(concat(path, ": cannot be read: ", std::strerror(errno)));
  Comparison out;
  Index number_of_line = 0;
  for (std::string line; std::getline(file, line) && !file.eof();) {
    ++number_of_line;
    try {
      read_line(out, Json::parse(line));
    } catch (nlohmann::json::exception const& e) {
      throw file_error(concat(path, ": line ", number_of_line, ": ", e.what()));
    } catch (value_error const& e) {
      throw file_error(concat(path, ": line ", number_of_line, ": ", e.what()));
    }
  }
  if (file.bad()) throw file_error(concat(path, ": cannot be read"));
  return out;
}

}  // namespace program
