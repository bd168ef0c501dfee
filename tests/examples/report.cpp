#include "support/report.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <regex>
#include <sstream>

#include "support/plot.hpp"

using namespace program;

namespace {

/// Routers "a", "b", … whose bits per byte are as given, by router and seed.
Comparison comparison_of(std::vector<std::vector<double>> const& bits) {
  Comparison c;
  c.settings = {{"steps", "20"}}, c.command = "compare_routers --steps 20", c.data = "a text", c.unigram_entropy_bits = 4.5;
  for (std::size_t r = 0; r < bits.size(); ++r)
    for (std::size_t s = 0; s < bits[r].size(); ++s) {
      Run run;
      run.router = std::string(1, static_cast<char>('a' + r)), run.seed = s, run.stopped = "finished";
      for (Index step = 1; step <= 20; ++step) {
        StepRecord record;
        record.step = step, record.tokens = 64 * step, record.loss = 3, record.tokens_per_second = 1000;
        RoutingStats layer;
        layer.layer = 1, layer.tokens = 64, layer.load = {60, 4, 0}, layer.balance = load_balance(layer.load);
        record.layers.push_back(layer);
        run.steps.push_back(record);
      }
      EvalRecord eval;
      eval.step = 20, eval.tokens = 64 * 20, eval.bits_per_byte = bits[r][s];
      LayerEval layer;
      layer.layer = 1, layer.counts.assign(3 * byte_classes, 2);
      eval.layers.push_back(layer);
      run.evals.push_back(eval);
      c.runs.push_back(run);
    }
  return c;
}

bool has(std::string const& page, std::string const& part) { return page.find(part) != std::string::npos; }

/// Every element that is opened is closed, in order; attributes are quoted.
void check_well_formed(std::string const& page) {
  std::vector<std::string> open;
  for (std::size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1)) {
    std::size_t end = at + 1;
    for (bool quoted = false; end < page.size() && (quoted || page[end] != '>'); ++end) quoted = quoted != (page[end] == '"');
    REQUIRE(end < page.size());
    std::string const tag = page.substr(at + 1, end - at - 1), name = tag.substr(tag[0] == '/', tag.find(' ') - (tag[0] == '/'));
    if (tag[0] == '!' || name == "meta" || tag.back() == '/') continue;
    if (tag[0] != '/') {
      open.push_back(name);
    } else {
      REQUIRE_FALSE(open.empty());
      REQUIRE(open.back() == name);
      open.pop_back();
    }
    at = end;
  }
  CHECK(open.empty());
}

}  // namespace

TEST_CASE("report: the page is well formed, needs nothing else, and has every plot") {
  auto const page = report_page(comparison_of({{2.1, 2.2, 2.15}, {2.4, 2.6, 2.5}}));
  check_well_formed(page);
  for (char const* const title :
       {"Held-out loss against tokens", "Training loss against tokens", "Balance while training", "Loss against balance",
        "Throughput", "Load of experts, by layer", "Load of experts, over time", "Specialisation", "Reproduce it"})
    CHECK(has(page, title));
  for (char const* const outside : {"http:", "https:", "<script", "src=", "url(", "@import"}) {
    INFO(outside);
    CHECK_FALSE(has(page, outside));
  }
  CHECK_FALSE(std::regex_search(page, std::regex{"\\b(nan|inf)\\b"}));  // of coordinates that are no numbers
  CHECK(has(page, "compare_routers --steps 20"));
}

TEST_CASE("report: names and settings cannot become markup") {
  auto c = comparison_of({{2.1}, {2.4}});
  std::string const bad = "<script>alert(\"1\" & '2')</script>";
  for (auto& run : c.runs) run.router += bad, run.stopped = bad;
  c.settings.emplace_back(bad, bad), c.command = bad, c.data = bad;
  auto const page = report_page(c);
  check_well_formed(page);
  CHECK_FALSE(has(page, "<script"));
  CHECK(has(page, "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;"));
}

TEST_CASE("report: one seed says nothing about differences") {
  CHECK(has(report_page(comparison_of({{2.1}, {2.4}})), "nothing can be said about whether they differ"));
  CHECK(has(report_page(comparison_of({{2.1, 2.2}})), "One router: there is nothing to compare it with."));
}

TEST_CASE("report: a difference that every seed shows is stated, and one that scatters is not") {
  auto const page = report_page(comparison_of({{2.60, 2.71, 2.80}, {2.10, 2.20, 2.31}, {2.25, 2.05, 2.3}}));
  CHECK(has(page, "<b>b</b> is better than <b>a</b> by 0.5 bits per byte"));
  CHECK_FALSE(has(page, "<b>b</b> is better than <b>c</b>"));
  CHECK_FALSE(has(page, "<b>c</b> is better than <b>b</b>"));
  CHECK(has(page, "over 3 pairs"));
}

TEST_CASE("report: the table begins with the best router") {
  auto const page = report_page(comparison_of({{2.5, 2.5}, {2.1, 2.1}, {2.3, 2.3}}));
  auto const row = [&](char const* name) { return page.find(std::string{"<th scope=\"row\">"} + name + "</th>"); };
  CHECK(row("b") < row("c"));
  CHECK(row("c") < row("a"));
}

TEST_CASE("report: what did not learn is named") {
  CHECK(has(report_page(comparison_of({{2.1}, {2.4}})), "Every router learned more than that: from 2.1 to 2.4 bits per byte"));
  CHECK(has(report_page(comparison_of({{2.1}, {4.6}})), "without a sign of learning: b."));
}

TEST_CASE("report: a run that fell short keeps out of the results, and is named with its reason") {
  auto c = comparison_of({{2.1, 2.2}, {2.4, 9.9}});
  c.runs[3].evals[0].step = 10, c.runs[3].stopped = "the loss is not a number";
  auto const page = report_page(c);
  check_well_formed(page);
  CHECK(has(page, "b, seed 1: the loss is not a number"));
  CHECK(has(page, "1 of 2"));
  CHECK(has(page, "up to 2 seeds each"));
  CHECK(has(page, "from 2.15 to 2.4 bits per byte"));
}

TEST_CASE("report: any comparison makes a page: no run, no step, no evaluation, no mixture, no number") {
  check_well_formed(report_page(Comparison{}));
  auto c = comparison_of({{2.1, 2.2}, {2.4, 2.5}});
  c.runs[0].steps.clear(), c.runs[1].evals.clear();
  c.runs[2].steps.resize(1);
  for (auto& step : c.runs[3].steps) step.layers.clear();
  check_well_formed(report_page(c));
  for (auto& run : c.runs) run.evals.clear(), run.steps.clear();
  check_well_formed(report_page(c));
  CHECK(has(report_page(c), "No evaluation has been made yet."));
  auto nans = comparison_of({{std::numeric_limits<double>::quiet_NaN()}});
  for (auto& step : nans.runs[0].steps) step.loss = std::numeric_limits<double>::infinity();
  check_well_formed(report_page(nans));
}

TEST_CASE("report: the file is written whole, or the reason is told") {
  auto const path =
      (std::filesystem::temp_directory_path() / ("blackmamba-report-" + std::to_string(::getpid()) + ".html")).string();
  auto const c = comparison_of({{2.1}});
  write_report(path, c);
  std::stringstream text;
  text << std::ifstream{path}.rdbuf();
  std::filesystem::remove(path);
  CHECK(text.str() == report_page(c));
  CHECK_THROWS_AS(write_report("nowhere/report.html", c), file_error);
}

TEST_CASE("plot: ticks are round, few and within the range") {
  CHECK(plot::ticks(0, 10, 5) == std::vector<double>{0, 2, 4, 6, 8, 10});
  CHECK(plot::ticks(-1, 1, 4) == std::vector<double>{-1, -0.5, 0, 0.5, 1});
  for (double const low : {-3.7, 0.0, 0.013, 1e6})
    for (double const size : {1e-3, 0.7, 12.0, 3.3e5}) {
      INFO("from " << low << " on, " << size);
      auto const at = plot::ticks(low, low + size);
      CHECK(at.size() >= 2);
      CHECK(at.size() <= 8);
      for (double const t : at) CHECK((t >= low - 1e-6 * size && t <= low + size * (1 + 1e-6)));
    }
  CHECK(plot::ticks(1, 1).empty());
  CHECK(plot::ticks(0, std::numeric_limits<double>::infinity()).empty());
}

TEST_CASE("plot: numbers are written as a reader writes them") {
  CHECK(plot::readable(0) == "0");
  CHECK(plot::readable(1234567.0, 7) == "1,234,567");
  CHECK(plot::readable(0.123456) == "0.1235");
  CHECK(plot::readable(2.5000) == "2.5");
  CHECK(plot::readable(-1500) == "−1,500");
  CHECK(plot::readable(100) == "100");
  CHECK(plot::readable(1e-7) == "1e-07");
  CHECK(plot::readable(std::numeric_limits<double>::quiet_NaN()) == "–");
}
