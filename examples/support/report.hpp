#pragma once
// The page that a comparison of routers ends in.

#include <string>

#include "support/metrics.hpp"

namespace program {

/// The page as text: one HTML file that needs nothing else, neither scripts nor network. Any comparison makes a page: also one
/// whose runs have not ended, without evaluations, or without runs.
std::string report_page(Comparison const& comparison);

/// Writes the page, whole or not at all; throws `file_error`.
void write_report(std::string const& path, Comparison const& comparison);

}  // namespace program
