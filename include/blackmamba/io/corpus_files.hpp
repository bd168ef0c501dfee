#pragma once
/// \file
/// Which files a corpus is made of: the paths that were given, and what the folders among them hold.

#include <algorithm>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <blackmamba/io/mapped_file.hpp>

namespace blackmamba::io {

/// A file of a folder that is no part of the corpus, and why.
struct SkippedFile {
  std::string path, reason;
};

namespace detail {

struct CorpusFile {
  std::string path;
  bool named;  ///< by the caller, not found in a folder
};

/// Finds files below folders, each once.
class CorpusFiles {
 public:
  explicit CorpusFiles(std::span<std::filesystem::path const> paths) {
    for (auto const& path : paths) {
      struct stat status;
      if (::stat(path.c_str(), &status) != 0) fail(path, "cannot be opened", errno);
      if (!S_ISDIR(status.st_mode)) {
        take(path.string(), true);
        continue;
      }
      std::vector<std::filesystem::path> found;
      list(path, found);
      std::vector<std::string> sorted;
      for (auto const& file : found) sorted.push_back(file.lexically_relative(path).generic_string());
      std::sort(sorted.begin(), sorted.end());
      for (auto const& file : sorted) take((path / file).string(), false);
    }
  }

  std::vector<CorpusFile> files;
  std::vector<SkippedFile> skipped;

 private:
  [[noreturn]] static void fail(std::filesystem::path const& path, char const* what, int code) {
    throw file_error(concat(path.string(), ": ", what, ": ", system_message(code)));
  }

  void skip(std::filesystem::path const& path, std::string reason) { skipped.push_back({path.string(), std::move(reason)}); }

  void list(std::filesystem::path const& folder, std::vector<std::filesystem::path>& found) {
    std::error_code failure;
    std::filesystem::directory_iterator entry{folder, failure};
    for (; !failure && entry != std::filesystem::directory_iterator{}; entry.increment(failure)) {
      auto const& path = entry->path();
      std::error_code ignored;
      bool const link = entry->is_symlink(ignored);
      auto const type = entry->status(ignored).type();
      if (path.filename().string().starts_with('.'))
        skip(path, "hidden");
      else if (type == std::filesystem::file_type::regular)
        found.push_back(path);
      else if (type == std::filesystem::file_type::directory && !link)
        list(path, found);
      else if (type == std::filesystem::file_type::directory)
        skip(path, "a link to a folder");
      else
        skip(path, link ? "a link to no file" : "not a regular file");
    }
    if (failure) fail(folder, "cannot be listed", failure.value());
  }

  void take(std::string const& path, bool named) {
    struct stat status;
    if (::stat(path.c_str(), &status) != 0) fail(path, "cannot be opened", errno);
    auto const [place, fresh] = seen_.emplace(std::pair{status.st_dev, status.st_ino}, path);
    if (fresh)
      files.push_back({path, named});
    else
      skip(path, concat("the same file as ", place->second));
  }

  std::map<std::pair<::dev_t, ::ino_t>, std::string> seen_;
};

}  // namespace detail

}  // namespace blackmamba::io
