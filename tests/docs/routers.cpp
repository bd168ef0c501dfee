// The page of routers against the list of routers.

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <blackmamba/layers/routers/list.hpp>

using namespace blackmamba;

namespace {

/// What stands between backquotes at the beginning of the page's lines that start with `prefix`.
std::vector<std::string> names_after(std::string const& prefix) {
  std::ifstream file{std::filesystem::path{__FILE__}.parent_path() / "../../docs/guide/routers.md"};
  std::vector<std::string> out;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(prefix)) out.push_back(line.substr(prefix.size(), line.find('`', prefix.size()) - prefix.size()));
  return out;
}

}  // namespace

TEST_CASE("docs: the table of routers has a row for each router of the list, in its order, and no other") {
  auto const rows = names_after("| [`");
  auto const names = Routers::names();
  CHECK(std::vector<std::string>(names.begin(), names.end()) == rows);
}

TEST_CASE("docs: every router has a section, and every section a router") {
  auto sections = names_after("### `");
  CHECK(sections.size() == static_cast<std::size_t>(Routers::size));
  for (auto const name : Routers::names()) {
    INFO(std::string{name});
    CHECK(std::count(sections.begin(), sections.end(), name) == 1);
  }
}

TEST_CASE("docs: every router of the library says in a line what it is") {
  for (auto const summary : Routers::summaries()) CHECK_FALSE(summary.empty());
}
