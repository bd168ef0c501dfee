#pragma once
/// \file
/// What a check found, for people and for programs.

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <blackmamba/verify/compare.hpp>

namespace blackmamba::verify {

/// One output of one problem.
struct Result {
  std::string size{};       ///< the problem's size in words
  std::string output{};     ///< which output
  Comparison comparison{};  ///< its error as a share of the allowed one
  std::string failure{};    ///< a sentence; empty when the output is right

  explicit operator bool() const { return failure.empty(); }
};

/// Every output of every problem of a check. It holds when each of them does, and there is at least one.
struct Report {
  std::string title{};
  std::vector<Result> results{};

  explicit operator bool() const {
    return !results.empty() && std::all_of(results.begin(), results.end(), [](Result const& r) { return static_cast<bool>(r); });
  }

  /// The largest share of the allowed error.
  double share() const {
    double largest = 0;
    for (auto const& r : results) largest = std::max(largest, r.comparison.share);
    return largest;
  }

  /// The largest error as a share of the largest magnitude of its output, whatever is allowed.
  double scaled() const {
    double largest = 0;
    for (auto const& r : results) largest = std::max(largest, r.comparison.scaled());
    return largest;
  }

  /// A sentence for each output that is wrong.
  std::vector<std::string> failures() const {
    std::vector<std::string> out;
    for (auto const& r : results)
      if (!r) out.push_back(r.failure);
    return out;
  }

  /// A line for each output of each size, and the verdict.
  std::string table() const {
    std::size_t size_width = 4, output_width = 6;
    for (auto const& r : results) {
      size_width = std::max(size_width, r.size.size());
      output_width = std::max(output_width, r.output.size());
    }
    auto const line = [&](std::string size, std::string output, std::string const& count, std::string const& share,
                          std::string const& verdict) {
      size.resize(size_width, ' ');
      output.resize(output_width, ' ');
      auto const right = [](std::string const& text, std::size_t width) {
        return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
      };
      return concat(size, "  ", output, "  ", right(count, 8), "  ", right(share, 16), "  ", verdict, "\n");
    };
    std::string out = title + "\n" + line("size", "output", "elements", "share of allowed", "");
    for (auto const& r : results) {
      char share[32];
      std::snprintf(share, sizeof share, "%.3f", r.comparison.share);
      out += line(r.size, r.output, concat(r.comparison.count), share, r ? "ok" : "FAILED");
    }
    for (auto const& sentence : failures()) out += sentence + "\n";
    if (results.empty()) out += "nothing was checked\n";
    return out;
  }
};

}  // namespace blackmamba::verify
