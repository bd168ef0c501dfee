#include "support/report.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <fmt/format.h>

#include <blackmamba/io/atomic_file.hpp>

#include "support/plot.hpp"
#include "support/results.hpp"
#include "support/statistics.hpp"

namespace program {

namespace {

using plot::escape;
using plot::readable;

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
constexpr double significance = 0.05;

/// The runs of one router.
struct Router {
  std::string name;
  std::vector<Run const*> runs;
  std::vector<RunSummary> summaries;
  std::vector<bool> reached;  ///< the last evaluation of the comparison
  std::size_t style = 0;
  std::size_t complete = 0;  ///< runs that did

  Spread over_seeds(double RunSummary::*field) const {
    std::vector<double> values;
    for (std::size_t i = 0; i < runs.size(); ++i)
      if (reached[i] || complete == 0) values.push_back(summaries[i].*field);
    return spread(values);
  }
};

/// The last step that any run was evaluated at: what results are compared at.
Index last_evaluation(Comparison const& comparison) {
  Index last = 0;
  for (auto const& run : comparison.runs)
    if (!run.evals.empty()) last = std::max(last, run.evals.back().step);
  return last;
}

/// Best first; those without a result last. A run that fell short of the others' last evaluation has none.
std::vector<Router> routers_of(Comparison const& comparison) {
  Index const last = last_evaluation(comparison);
  std::vector<Router> out;
  for (auto const& run : comparison.runs) {
    auto at = std::find_if(out.begin(), out.end(), [&](Router const& r) { return r.name == run.router; });
    if (at == out.end()) at = out.insert(at, Router{run.router, {}, {}, {}, out.size(), 0});
    at->runs.push_back(&run);
    at->summaries.push_back(summarise(run));
    bool const complete = !run.evals.empty() && run.evals.back().step == last;
    at->reached.push_back(complete);
    if (complete)
      ++at->complete;
    else
      at->summaries.back().bits_per_byte = unknown;
  }
  auto const key = [](Router const& r) {
    double const mean = r.over_seeds(&RunSummary::bits_per_byte).mean;
    return mean == mean ? mean : std::numeric_limits<double>::infinity();
  };
  std::stable_sort(out.begin(), out.end(), [&](Router const& a, Router const& b) { return key(a) < key(b); });
  return out;
}

std::string with_spread(Spread const& s, int digits = 4) {
  if (s.count == 0) return "–";
  return s.count == 1 ? readable(s.mean, digits) : readable(s.mean, digits) + " ± " + readable(s.deviation, 2);
}

std::string percent(double share) { return share == share ? readable(100 * share, 3) + " %" : "–"; }

std::string probability(double p) { return p < 1e-4 ? "p &lt; 0.0001" : "p = " + readable(p, 2); }

/// Mean over layers and the last tenth of the steps.
double at_the_end(Run const& run, std::function<double(RoutingStats const&)> const& of) {
  std::vector<double> values;
  for (auto at = run.steps.end() - static_cast<std::ptrdiff_t>(last_tenth(run)); at != run.steps.end(); ++at)
    values.push_back(layer_mean(*at, of));
  return spread(values).mean;
}

// ---- Text ----

std::string table(std::vector<std::string> const& head, std::vector<std::vector<std::string>> const& rows) {
  std::string out = "<div class=\"scroll\"><table><thead><tr>";
  for (auto const& cell : head) out += "<th scope=\"col\">" + cell + "</th>";
  out += "</tr></thead><tbody>";
  for (auto const& row : rows) {
    out += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) out += i ? "<td>" + row[i] + "</td>" : "<th scope=\"row\">" + row[i] + "</th>";
    out += "</tr>";
  }
  return out + "</tbody></table></div>";
}

std::string figure(std::string const& name, std::string const& drawing, std::string const& caption) {
  return fmt::format("<section><h2>{}</h2><figure>{}<figcaption>{}</figcaption></figure></section>", name, drawing, caption);
}

std::string summary_table(std::vector<Router> const& routers) {
  std::vector<std::vector<std::string>> rows;
  for (auto const& r : routers) {
    auto const dropped = r.over_seeds(&RunSummary::dropped);
    auto const& run = *r.runs.front();
    rows.push_back(
        {escape(r.name), with_spread(r.over_seeds(&RunSummary::bits_per_byte)), with_spread(r.over_seeds(&RunSummary::max_vio), 3),
         percent(dropped.mean), with_spread(r.over_seeds(&RunSummary::tokens_per_second)),
         readable(static_cast<double>(run.parameters), 12), readable(static_cast<double>(run.active_parameters), 12),
         r.complete == r.runs.size() ? fmt::format("{}", r.complete) : fmt::format("{} of {}", r.complete, r.runs.size())});
  }
  return table({"Router", "Held-out bits per byte", "MaxVio", "Dropped", "Tokens per second", "Parameters", "Active", "Seeds"},
               rows);
}

std::string routing_table(std::vector<Router> const& routers) {
  std::vector<std::vector<std::string>> rows;
  for (auto const& r : routers) {
    auto const end = [&](auto const& of, int digits) {
      std::vector<double> values;
      for (std::size_t i = 0; i < r.runs.size(); ++i)
        if (r.reached[i] || r.complete == 0) values.push_back(at_the_end(*r.runs[i], of));
      return readable(spread(values).mean, digits);
    };
    auto const tokens = [](RoutingStats const& s) { return static_cast<double>(std::max<Index>(s.tokens, 1)); };
    rows.push_back({escape(r.name), end([](RoutingStats const& s) { return s.balance.entropy; }, 3),
                    end([](RoutingStats const& s) { return s.balance.gini; }, 3),
                    end([](RoutingStats const& s) { return s.balance.variation; }, 3),
                    end([](RoutingStats const& s) { return static_cast<double>(s.balance.dead); }, 3),
                    end([&](RoutingStats const& s) { return 100 * static_cast<double>(s.unrouted) / tokens(s); }, 3) + " %",
                    end([](RoutingStats const& s) { return s.confidence; }, 3),
                    end([](RoutingStats const& s) { return s.margin; }, 3),
                    end([](RoutingStats const& s) { return s.logit_rms; }, 3), percent(r.over_seeds(&RunSummary::moved).mean),
                    percent(r.over_seeds(&RunSummary::churn).mean), readable(r.over_seeds(&RunSummary::class_information).mean, 3),
                    end([](RoutingStats const& s) { return static_cast<double>(s.iterations); }, 3),
                    end([](RoutingStats const& s) { return s.marginal_error; }, 2)});
  }
  return table({"Router", "Entropy", "Gini", "Variation", "Dead experts", "Unrouted", "Confidence", "Margin", "Logit RMS", "Moved",
                "Churn", "Class information", "Iterations", "Marginal error"},
               rows);
}

/// Whether differences are more than chance.
std::string significance_text(std::vector<Router> const& routers) {
  std::set<std::uint64_t> seeds;
  for (auto const& r : routers)
    for (auto const* run : r.runs) seeds.insert(run->seed);
  std::vector<std::vector<double>> values;
  bool left_out = false;
  for (auto const& r : routers) {
    auto& row = values.emplace_back(seeds.size(), unknown);
    left_out = left_out || r.complete < r.runs.size();
    for (std::size_t i = 0; i < r.runs.size(); ++i)
      row[static_cast<std::size_t>(std::distance(seeds.begin(), seeds.find(r.runs[i]->seed)))] = r.summaries[i].bits_per_byte;
  }
  auto pairs = compare_pairs(values);
  std::erase_if(pairs, [](Pair const& pair) { return pair.p != pair.p; });
  std::string out;
  if (left_out) out += "<p>Runs that did not reach the last evaluation take no part in the test.</p>";
  if (routers.size() < 2) return out + "<p>One router: there is nothing to compare it with.</p>";
  if (pairs.empty())
    return out +
           "<p>No two routers have two seeds in common that reached the end, so nothing can be said about whether they differ: how "
           "much "
           "a result changes with the seed alone is not known. Train with at least 3 seeds to learn that.</p>";
  std::stable_sort(pairs.begin(), pairs.end(), [](Pair const& a, Pair const& b) { return a.p < b.p; });
  std::vector<std::vector<std::string>> rows;
  std::string verdicts;
  Index differ = 0, fewest = pairs.front().seeds;
  for (auto const& pair : pairs) {
    bool const first = pair.difference < 0;
    auto const &better = routers[first ? pair.first : pair.second].name, &worse = routers[first ? pair.second : pair.first].name;
    bool const significant = pair.adjusted < significance;
    fewest = std::min(fewest, pair.seeds);
    differ += significant;
    if (significant && differ <= 12)
      verdicts += fmt::format("<li><b>{}</b> is better than <b>{}</b> by {} bits per byte ({})</li>", escape(better), escape(worse),
                              readable(std::abs(pair.difference), 3), probability(pair.adjusted));
    rows.push_back({fmt::format("{} – {}", escape(better), escape(worse)), "−" + readable(std::abs(pair.difference), 3),
                    fmt::format("{}", pair.seeds), readable(pair.p, 2), readable(pair.adjusted, 2), significant ? "yes" : "no"});
  }
  out += fmt::format(
      "<p>Differences in held-out bits per byte between routers, by Student's paired t test over the seeds (runs of one seed share "
      "data "
      "and initial weights), with Holm's correction over {} pair{}: {} differ{} at a chance of error of 5 % over all pairs "
      "together.</p>",
      pairs.size(), pairs.size() == 1 ? "" : "s", differ == 0 ? "none" : fmt::format("{}", differ), differ == 1 ? "s" : "");
  if (differ) out += "<ul>" + verdicts + (differ > 12 ? fmt::format("<li>and {} more, below</li>", differ - 12) : "") + "</ul>";
  if (fewest < 5)
    out += fmt::format(
        "<p>With {} seeds the test finds only differences that are large beside their scatter; no verdict is not the same as no "
        "difference.</p>",
        fewest);
  return out + fmt::format("<details><summary>All {} pairs</summary>{}</details>", pairs.size(),
                           table({"Pair, better first", "Difference", "Seeds", "p", "p, corrected", "Differ"}, rows));
}

/// Whether the models know more than how often each byte occurs.
std::string learning_text(std::vector<Router> const& routers, double entropy) {
  std::string better, not_better;
  double best = unknown, worst = unknown;
  for (auto const& r : routers) {
    double const mean = r.over_seeds(&RunSummary::bits_per_byte).mean;
    if (mean != mean) continue;
    if (best != best) best = mean;
    worst = mean;
    auto& list = mean < entropy ? better : not_better;
    list += (list.empty() ? "" : ", ") + escape(r.name);
  }
  if (best != best) return "<p>No evaluation has been made yet.</p>";
  auto out = fmt::format(
      "<p>The unigram entropy of the text is {} bits: what a model reaches that knows only how often each byte occurs. ",
      readable(entropy));
  if (not_better.empty())
    out += fmt::format("Every router learned more than that: from {} to {} bits per byte on held-out text.</p>", readable(best),
                       readable(worst));
  else
    out += fmt::format("<strong>Not below it, so without a sign of learning: {}.</strong>{}</p>", not_better,
                       better.empty() ? "" : " Below it: " + better + ".");
  return out;
}

std::string findings(std::vector<Router> const& routers) {
  std::string out;
  auto const extreme = [&](double RunSummary::*field, bool largest) -> Router const* {
    Router const* best = nullptr;
    for (auto const& r : routers) {
      double const mean = r.over_seeds(field).mean, of_best = best ? best->over_seeds(field).mean : unknown;
      if (mean == mean && (!best || (largest ? mean > of_best : mean < of_best))) best = &r;
    }
    return best;
  };
  auto const add = [&](char const* what, double RunSummary::*field, bool largest, char const* unit) {
    if (auto const* r = extreme(field, largest))
      out += fmt::format("<li>{}: <b>{}</b>, {} {}</li>", what, escape(r->name), with_spread(r->over_seeds(field)), unit);
  };
  add("Best on held-out text", &RunSummary::bits_per_byte, false, "bits per byte");
  add("Most even load", &RunSummary::max_vio, false, "MaxVio");
  add("Least even load", &RunSummary::max_vio, true, "MaxVio");
  add("Fastest", &RunSummary::tokens_per_second, true, "tokens per second");
  return "<ul>" + out + "</ul>";
}

// ---- Charts ----

/// A value of steps in bins of `width` steps: mean in a bin, then mean, least and most over the seeds.
plot::Series binned(Router const& router, Index width, std::function<double(StepRecord const&)> const& of, bool by_tokens) {
  struct Bin {
    double x = 0;
    std::vector<double> of_seeds;
  };
  std::map<Index, Bin> bins;
  for (auto const* run : router.runs)
    for (std::size_t i = 0; i < run->steps.size();) {
      Index const bin = (run->steps[i].step - 1) / width;
      std::vector<double> values;
      double x = 0;
      for (; i < run->steps.size() && (run->steps[i].step - 1) / width == bin; ++i) {
        values.push_back(of(run->steps[i]));
        x = static_cast<double>(by_tokens ? run->steps[i].tokens : run->steps[i].step);
      }
      bins[bin].x = std::max(bins[bin].x, x);
      bins[bin].of_seeds.push_back(spread(values).mean);
    }
  plot::Series out{.name = router.name, .x = {}, .y = {}, .low = {}, .high = {}, .style = router.style};
  for (auto const& [index, bin] : bins) {
    auto const s = spread(bin.of_seeds);
    out.x.push_back(bin.x), out.y.push_back(s.mean), out.low.push_back(s.low), out.high.push_back(s.high);
  }
  return out;
}

plot::Series evaluated(Router const& router) {
  std::map<Index, std::vector<double>> at;
  for (auto const* run : router.runs)
    for (auto const& eval : run->evals) at[eval.tokens].push_back(eval.bits_per_byte);
  plot::Series out{.name = router.name, .x = {}, .y = {}, .low = {}, .high = {}, .style = router.style};
  for (auto const& [tokens, values] : at) {
    auto const s = spread(values);
    out.x.push_back(static_cast<double>(tokens)), out.y.push_back(s.mean), out.low.push_back(s.low), out.high.push_back(s.high);
  }
  return out;
}

/// The points from half of `tokens` on: there routers differ by less than what they all learn at first.
plot::Series second_half(plot::Series all, Index tokens) {
  auto const begin =
      std::find_if(all.x.begin(), all.x.end(), [&](double x) { return 2 * x >= static_cast<double>(tokens); }) - all.x.begin();
  for (auto* values : {&all.x, &all.y, &all.low, &all.high}) values->erase(values->begin(), values->begin() + begin);
  return all;
}

/// Load of each expert over the steps [begin, end) as a multiple of an even share, for the layer at `position` of each record.
std::vector<double> relative_load(Run const& run, std::size_t begin, std::size_t end, std::size_t position) {
  std::vector<double> sums;
  double total = 0;
  for (std::size_t i = begin; i < end; ++i) {
    if (position >= run.steps[i].layers.size()) continue;
    auto const& load = run.steps[i].layers[position].load;
    sums.resize(std::max(sums.size(), load.size()));
    for (std::size_t e = 0; e < load.size(); ++e) sums[e] += static_cast<double>(load[e]), total += static_cast<double>(load[e]);
  }
  for (auto& l : sums) l = total > 0 ? l * static_cast<double>(sums.size()) / total : unknown;
  return sums;
}

std::vector<std::string> numbered(std::size_t count) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(fmt::format("{}", i));
  return out;
}

std::string times(double x) { return x == x ? fmt::format("{:.2f}", x) : "–"; }

std::string load_by_layer(Router const& router) {
  auto const& run = *router.runs.front();
  if (run.steps.empty() || run.steps.back().layers.empty()) return {};
  plot::HeatMap map{.title = router.name,
                    .rows = {},
                    .columns = {},
                    .row_label = "layer",
                    .column_label = "expert",
                    .values = {},
                    .middle = 1,
                    .reach = 2,
                    .logarithmic = true,
                    .numbers = true,
                    .format = times};
  std::size_t experts = 0;
  auto const begin = run.steps.size() - static_cast<std::size_t>(last_tenth(run));
  for (std::size_t l = 0; l < run.steps.back().layers.size(); ++l) {
    map.rows.push_back(fmt::format("{}", run.steps.back().layers[l].layer));
    map.values.push_back(relative_load(run, begin, run.steps.size(), l));
    experts = std::max(experts, map.values.back().size());
  }
  for (auto& row : map.values) row.resize(experts, unknown);
  map.columns = numbered(experts);
  map.numbers = experts <= 16;
  return draw(map);
}

/// The layer, as a position in the records, whose load was least even at the end.
std::size_t least_even(Run const& run) {
  std::size_t worst = 0;
  double of_worst = -1;
  for (std::size_t l = 0; l < run.steps.back().layers.size(); ++l) {
    auto const load = relative_load(run, run.steps.size() - static_cast<std::size_t>(last_tenth(run)), run.steps.size(), l);
    double const most = load.empty() ? 0 : *std::max_element(load.begin(), load.end());
    if (most > of_worst) worst = l, of_worst = most;
  }
  return worst;
}

std::string load_over_time(Router const& router) {
  auto const& run = *router.runs.front();
  if (run.steps.empty() || run.steps.back().layers.empty()) return {};
  auto const position = least_even(run);
  std::size_t const count = run.steps.size(), columns = std::min<std::size_t>(count, 40);
  auto const experts = run.steps.back().layers[position].load.size();
  plot::HeatMap map{.title = fmt::format("{}, layer {}", router.name, run.steps.back().layers[position].layer),
                    .rows = numbered(experts),
                    .columns = {},
                    .row_label = "expert",
                    .column_label = "step",
                    .values = std::vector<std::vector<double>>(experts),
                    .middle = 1,
                    .reach = 2,
                    .logarithmic = true,
                    .numbers = false,
                    .format = times};
  for (std::size_t c = 0; c < columns; ++c) {
    std::size_t const begin = c * count / columns, end = (c + 1) * count / columns;
    auto load = relative_load(run, begin, end, position);
    load.resize(experts, unknown);
    for (std::size_t e = 0; e < experts; ++e) map.values[e].push_back(load[e]);
    map.columns.push_back(readable(static_cast<double>(run.steps[end - 1].step), 6));
  }
  return draw(map);
}

/// Of each class of bytes, the share that each expert serves: the layer where class and expert tell most of each other.
std::string specialisation(Router const& router) {
  auto const& run = *router.runs.front();
  if (run.evals.empty()) return {};
  LayerEval const* best = nullptr;
  double most = -1;
  for (auto const& layer : run.evals.back().layers)
    if (!layer.counts.empty())
      if (double const bits = mutual_information(layer.counts, byte_classes); bits > most) best = &layer, most = bits;
  if (!best) return {};
  constexpr auto classes = static_cast<std::size_t>(byte_classes);
  auto const experts = best->counts.size() / classes;
  plot::HeatMap map{.title = fmt::format("{}, layer {}: {} bits", router.name, best->layer, readable(most, 3)),
                    .rows = numbered(experts),
                    .columns = {},
                    .row_label = "expert",
                    .column_label = "class of the byte",
                    .values = std::vector<std::vector<double>>(experts, std::vector<double>(classes, unknown)),
                    .middle = 0,
                    .reach = 1,
                    .logarithmic = false,
                    .numbers = experts <= 16,
                    .format = [](double x) { return x == x ? fmt::format("{:.0f} %", 100 * x) : "–"; }};
  for (std::size_t c = 0; c < classes; ++c) {
    map.columns.emplace_back(byte_class_names[c]);
    double total = 0;
    for (std::size_t e = 0; e < experts; ++e) total += static_cast<double>(best->counts[e * classes + c]);
    if (total > 0)
      for (std::size_t e = 0; e < experts; ++e) map.values[e][c] = static_cast<double>(best->counts[e * classes + c]) / total;
  }
  return draw(map);
}

std::string gallery(std::vector<Router> const& routers, std::string (*of)(Router const&)) {
  std::string out;
  for (auto const& r : routers)
    if (auto const drawing = of(r); !drawing.empty()) out += "<div class=\"scroll\">" + drawing + "</div>";
  return out.empty() ? out : "<div class=\"gallery\">" + out + "</div>";
}

std::string charts(std::vector<Router> const& routers, Comparison const& comparison) {
  Index steps = 0, tokens = 0;
  bool seeds = false;
  for (auto const& r : routers) {
    seeds = seeds || r.runs.size() > 1;
    for (auto const* run : r.runs)
      if (!run->steps.empty()) steps = std::max(steps, run->steps.back().step), tokens = std::max(tokens, run->steps.back().tokens);
  }
  Index const width = std::max<Index>(1, (steps + 149) / 150);
  std::string const band = seeds ? " The band reaches from the lowest to the highest seed." : "";
  std::string const each = width > 1 ? fmt::format(" Each point is the mean of {} steps.", width) : "";
  plot::LineChart held_out{.x_label = "tokens trained on", .y_label = "bits per byte", .series = {}, .lines = {}};
  plot::LineChart late{.x_label = "tokens trained on", .y_label = "bits per byte", .series = {}, .lines = {}};
  plot::LineChart training{.x_label = "tokens trained on", .y_label = "loss, nats a token", .series = {}, .lines = {}};
  plot::LineChart violation{.x_label = "step", .y_label = "MaxVio, mean over layers", .series = {}, .lines = {}, .from_zero = true};
  plot::Scatter trade{.x_label = "MaxVio at the end", .y_label = "held-out bits per byte", .points = {}};
  plot::BarChart speed{.label = "tokens per second", .bars = {}};
  if (comparison.unigram_entropy_bits > 0)
    held_out.lines.emplace_back(comparison.unigram_entropy_bits, "unigram entropy of the text");
  for (auto const& r : routers) {
    held_out.series.push_back(evaluated(r));
    late.series.push_back(second_half(held_out.series.back(), tokens));
    training.series.push_back(binned(
        r, width, [](StepRecord const& s) { return s.loss; }, true));
    violation.series.push_back(binned(
        r, width, [](StepRecord const& s) { return layer_mean(s, [](RoutingStats const& l) { return l.balance.max_vio; }); },
        false));
    auto const vio = r.over_seeds(&RunSummary::max_vio), bits = r.over_seeds(&RunSummary::bits_per_byte),
               rate = r.over_seeds(&RunSummary::tokens_per_second);
    trade.points.push_back({r.name, vio.mean, bits.mean, vio.deviation, bits.deviation, r.style});
    speed.bars.push_back({r.name, rate.mean, rate.deviation, r.style});
  }
  std::sort(speed.bars.begin(), speed.bars.end(), [](plot::Bar const& a, plot::Bar const& b) { return a.value > b.value; });
  std::string out;
  out += figure("Held-out loss against tokens", draw(held_out),
                "Lower is better; the dashed line is what byte frequencies alone give." + band);
  out += figure("Held-out loss, the second half", draw(late),
                "The end of the same curves, where routers differ by less than what all learn at first." + band);
  out += figure("Training loss against tokens", draw(training),
                "How fast each router learns: lower and further left is better." + each + band);
  out += figure("Balance while training", draw(violation),
                "MaxVio says by how much the busiest expert exceeds an even share: 0 is even, 1 is twice its share." + each + band);
  out += figure("Loss against balance", draw(trade),
                std::string{"A router is good in both ways towards the lower left corner."} +
                    (seeds ? " Lines reach one standard deviation over the seeds." : ""));
  out += figure("Throughput", draw(speed),
                std::string{"Training speed, median over the steps: longer is faster."} +
                    (seeds ? " The thin line reaches one standard deviation over the seeds." : ""));
  if (auto const maps = gallery(routers, load_by_layer); !maps.empty())
    out += figure("Load of experts, by layer", maps,
                  "How many times its even share an expert got in the last tenth of the steps: 1.00 is even, warm is more, cold is "
                  "less, 0.00 is dead. First seed.");
  if (auto const maps = gallery(routers, load_over_time); !maps.empty())
    out += figure("Load of experts, over time", maps,
                  "The layer of each router whose load was least even in the end: a row that turns and stays cold is an expert "
                  "that the router gave up. First seed.");
  if (auto const maps = gallery(routers, specialisation); !maps.empty())
    out += figure("Specialisation", maps,
                  "Of the held-out bytes of a class, the share that each expert serves; a column of equal numbers means that the "
                  "class does not matter to the router. The bits are what expert and class tell of each other, in the layer where "
                  "that is most. First seed.");
  return out;
}

constexpr char const* rules = R"(
body{margin:0 auto;max-width:62rem;padding:1rem;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.6rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--rule);padding-top:1rem}
.lead,.note{color:var(--quiet)}.note{font-size:.9rem;max-width:46rem}p,ul{max-width:46rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{color:var(--quiet);font-weight:600}tbody tr:hover{background:var(--panel)}
.settings td,.settings th{text-align:left;white-space:normal}
pre{background:var(--panel);padding:.8rem;border-radius:.4rem;white-space:pre-wrap;overflow-wrap:anywhere}
.gallery{display:flex;flex-wrap:wrap;gap:1rem 1.5rem}.gallery>.scroll{max-width:100%}
summary{cursor:pointer})";

}  // namespace

std::string report_page(Comparison const& comparison) {
  auto const routers = routers_of(comparison);
  std::size_t seeds = 0;
  Index steps = 0, tokens = 0;
  std::string stopped;
  for (auto const& r : routers) {
    seeds = std::max(seeds, r.runs.size());
    for (std::size_t i = 0; i < r.runs.size(); ++i) {
      steps = std::max(steps, r.summaries[i].steps), tokens = std::max(tokens, r.summaries[i].tokens);
      if (r.runs[i]->stopped != "finished")
        stopped += fmt::format("<li>{}, seed {}: {}</li>", escape(r.name), r.runs[i]->seed,
                               r.runs[i]->stopped.empty() ? "has not ended" : escape(r.runs[i]->stopped));
    }
  }
  auto const title = fmt::format("{} router{} compared", routers.size(), routers.size() == 1 ? "" : "s");
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\">"
      "<title>{}</title><style>{}{}</style></head><body><h1>{}</h1>",
      title, plot::style(), rules, title);
  out += fmt::format(
      "<p class=\"lead\">The same model, trained with each router on the same text for {} steps ({} tokens), {}{} seed{} each. "
      "Text: {}.</p>",
      readable(static_cast<double>(steps), 12), readable(static_cast<double>(tokens), 15), stopped.empty() ? "" : "up to ", seeds,
      seeds == 1 ? "" : "s", escape(comparison.data));
  if (routers.empty()) return out + "<p>No run has begun.</p></body></html>\n";
  out += findings(routers) + learning_text(routers, comparison.unigram_entropy_bits);
  if (!stopped.empty()) out += "<p>Runs that did not finish:</p><ul>" + stopped + "</ul>";
  out += "<section><h2>Results</h2>" + summary_table(routers) +
         "<p class=\"note\">Best first. Mean ± standard deviation over the seeds; a run that did not reach the last "
         "evaluation is left out. MaxVio is the busiest expert's load over the mean load, less 1; "
         "dropped is the share of assignments that found their expert full: both over the layers and the last tenth of the "
         "steps.</p></section>";
  out += "<section><h2>Are the differences more than chance?</h2>" + significance_text(routers) + "</section>";
  out += charts(routers, comparison);
  out += "<section><h2>Routing at the end</h2>" + routing_table(routers) +
         "<p class=\"note\">Means over layers, seeds and the last tenth of the steps. Entropy of the load is 1 and Gini is 0 where "
         "it is even. Moved: tokens "
         "whose expert in training differs from the one at inference. Churn: tokens whose expert changed since the evaluation "
         "before. Class "
         "information: bits that a byte's class and its expert tell of each other. Iterations and marginal error: of routers that "
         "solve for a plan.</p></section>";
  std::vector<std::vector<std::string>> rows;
  for (auto const& [name, value] : comparison.settings) rows.push_back({escape(name), escape(value)});
  out += "<section class=\"settings\"><h2>Reproduce it</h2><pre>" + escape(comparison.command) + "</pre>" +
         (rows.empty() ? std::string{} : table({"Setting", "Value"}, rows)) + "</section>";
  return out + "</body></html>\n";
}

void write_report(std::string const& path, Comparison const& comparison) {
  io::AtomicFile file{path};
  file.write(report_page(comparison));
  file.commit();
}

}  // namespace program
