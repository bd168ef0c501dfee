#pragma once
// Where the golden data is: the folder named by BLACKMAMBA_TEST_DATA, or tests/data of this source tree.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace test {

inline std::filesystem::path data_folder() {
  if (char const* const folder = std::getenv("BLACKMAMBA_TEST_DATA"); folder && *folder) return folder;
  return std::filesystem::path{__FILE__}.parent_path().parent_path() / "data";
}

/// The entries of `folder` whose name starts with `prefix` and ends with `suffix`, in order. An empty answer is the caller's to
/// judge.
inline std::vector<std::filesystem::path> entries(std::filesystem::path const& folder, std::string const& prefix,
                                                  std::string const& suffix = "") {
  std::vector<std::filesystem::path> found;
  if (!std::filesystem::is_directory(folder)) return found;
  for (auto const& entry : std::filesystem::directory_iterator{folder}) {
    auto const name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(suffix)) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace test
