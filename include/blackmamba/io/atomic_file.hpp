#pragma once
/// \file
/// Writing a file so that its path holds either what it held before or all of the new content, whatever happens in between.

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include <blackmamba/io/mapped_file.hpp>

namespace blackmamba::io {

/// A temporary file beside its target. `commit()` brings it to the disk and renames it over the target; without it, nothing
/// remains.
///
/// Throws `file_error` naming the target and the reason: an unwritable folder, a full disk, a target that is not a regular file.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path const& target)
      : target_{target.string()}, temporary_{temporary_name(target_)}, file_{create()} {}
  AtomicFile(AtomicFile const&) = delete;
  AtomicFile& operator=(AtomicFile const&) = delete;
  ~AtomicFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  void write(std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      auto const written = ::write(file_.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail(concat("cannot be written: ", detail::system_message(errno)));
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span{text.data(), text.size()})); }

  /// Once, at the end.
  void commit() {
    if (::fsync(file_.get()) != 0) fail(concat("cannot be brought to the disk: ", detail::system_message(errno)));
    if (!file_.close()) fail(concat("cannot be closed: ", detail::system_message(errno)));
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail(concat("cannot be replaced: ", detail::system_message(errno)));
    temporary_.clear();
    // The rename is durable once the folder is. Some file systems cannot sync a folder; the content is safe there all the same.
    detail::Descriptor const folder{::open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (folder) ::fsync(folder.get());
  }

 private:
  static std::string folder_of(std::string const& path) {
    auto const folder = std::filesystem::path{path}.parent_path().string();
    return folder.empty() ? "." : folder;
  }

  static std::string temporary_name(std::string const& target) {
    static std::atomic<unsigned> count{0};
    return concat(target, ".", static_cast<long long>(::getpid()), "-", count++, ".part");
  }

  int create() {
    struct stat status;
    if (::stat(target_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) fail_at_start("is not a regular file");
    int const fd = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) fail_at_start(concat("cannot be created: ", detail::system_message(errno)));
    return fd;
  }

  [[noreturn]] void fail(std::string const& reason) const { throw file_error(concat(target_, ": ", reason)); }
  [[noreturn]] void fail_at_start(std::string const& reason) {
    temporary_.clear();
    fail(reason);
  }

  std::string target_, temporary_;
  detail::Descriptor file_;
};

}  // namespace blackmamba::io
