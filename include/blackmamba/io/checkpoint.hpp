#pragma once
/// \file
/// The checkpoints of a training run: folders that are complete or not there, whatever happens while they are written.

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/file.h>

#include <blackmamba/core/shape.hpp>
#include <blackmamba/io/mapped_file.hpp>

namespace blackmamba::io {

/// A complete checkpoint.
struct Checkpoint {
  Index step;
  std::filesystem::path folder;
};

namespace detail {

/// "step-00000100". Longer numbers are longer names.
inline std::string checkpoint_name(Index step) {
  std::string const digits = concat(step);
  return concat("step-", std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0'), digits);
}

/// The step that a name stands for, if it is one of a complete checkpoint.
inline std::optional<Index> checkpoint_step(std::string_view name) {
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix)) return std::nullopt;
  Index step = -1;
  auto const digits = name.substr(prefix.size());
  auto const [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (failure != std::errc{} || end != digits.data() + digits.size() || step < 0 || checkpoint_name(step) != name)
    return std::nullopt;
  return step;
}

[[noreturn]] inline void fail_at(std::filesystem::path const& path, char const* what, int code) {
  throw file_error(concat(path.string(), ": ", what, ": ", system_message(code)));
}

/// Brings a file, or the names in a folder, to the disk. Some file systems cannot do so for a folder and say EINVAL.
inline void synchronise(std::filesystem::path const& path) {
  Descriptor const opened{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!opened) fail_at(path, "cannot be opened to bring it to the disk", errno);
  if (::fsync(opened.get()) != 0 && errno != EINVAL) fail_at(path, "cannot be brought to the disk", errno);
}

/// A folder and all in it.
inline void synchronise_all(std::filesystem::path const& folder) {
  std::error_code failure;
  std::filesystem::recursive_directory_iterator entry{folder, failure};
  for (; !failure && entry != std::filesystem::recursive_directory_iterator{}; entry.increment(failure))
    if (!entry->is_symlink()) synchronise(entry->path());
  if (failure) fail_at(folder, "cannot be listed", failure.value());
  synchronise(folder);
}

}  // namespace detail

/// The complete checkpoints below `folder`, by ascending step; none if there is no such folder. Throws `file_error` if it cannot be
/// listed.
inline std::vector<Checkpoint> list_checkpoints(std::filesystem::path const& folder) {
  std::vector<Checkpoint> out;
  std::error_code failure, ignored;
  std::filesystem::directory_iterator entry{folder, failure};
  if (failure == std::errc::no_such_file_or_directory) return out;
  for (; !failure && entry != std::filesystem::directory_iterator{}; entry.increment(failure))
    if (auto const step = detail::checkpoint_step(entry->path().filename().string()); step && entry->is_directory(ignored))
      out.push_back({*step, entry->path()});
  if (failure) detail::fail_at(folder, "cannot be listed", failure.value());
  std::sort(out.begin(), out.end(), [](auto const& a, auto const& b) { return a.step < b.step; });
  return out;
}

/// The last complete checkpoint below `folder`.
inline std::optional<Checkpoint> newest_checkpoint(std::filesystem::path const& folder) {
  auto all = list_checkpoints(folder);
  return all.empty() ? std::nullopt : std::optional{std::move(all.back())};
}

/// The one writer of checkpoints below a folder, for as long as it lives: OUT/step-00000100, OUT/step-00000200, …
///
/// A checkpoint is written under another name (OUT/step-00000100.partial-PID), brought to the disk with all its files, and renamed,
/// so every folder with the name of a checkpoint is a complete one, after a kill or a loss of power at any moment. Old ones lose
/// that name before they are removed. `OUT/latest` is a link to the last one, for programs that take a folder; resuming does not go
/// by it.
///
/// Making one creates the folder if it is not there, locks it against other writers (the system drops the lock with the process),
/// and removes what killed runs left: half-written ones, and old ones beyond `keep`. Every failure is a `file_error` with path and
/// reason.
class CheckpointWriter {
 public:
  /// \param keep  how many of the last checkpoints stay; at least 1
  explicit CheckpointWriter(std::filesystem::path folder, Index keep = 2)
      : folder_{std::move(folder)}, keep_{keep}, lock_{open_folder(folder_, keep)} {
    // Not every network file system has locks; only one that is held by somebody else is in the way.
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      throw file_error(concat(folder_.string(), ": another run is writing its checkpoints here"));
    remove_leftovers();
    remove_old();
  }

  std::filesystem::path const& folder() const { return folder_; }

  /// Writes a checkpoint: `write(path)` puts its files, and folders if it likes, below `path`. Returns where it is then.
  ///
  /// If `write` throws, or the disk is full, nothing of the checkpoint remains, those before it are as they were, and the exception
  /// goes on. Throws `value_error` on a negative step, `file_error` if there is a checkpoint of this step or a later one. Failures
  /// to renew `latest` and to remove old checkpoints are thrown after the new one has its name.
  template <class Write>
  requires std::is_invocable_v<Write&, std::filesystem::path const&> std::filesystem::path save(Index step, Write&& write) {
    check_value(step >= 0, "checkpoint", "the step is ", step, ", not at least 0");
    auto const name = detail::checkpoint_name(step);
    auto const target = folder_ / name;
    if (auto const newest = newest_checkpoint(folder_); newest && newest->step >= step)
      throw file_error(concat(folder_.string(), ": holds a checkpoint of step ", newest->step, ", so one of step ", step,
                              " would not be the newest"));
    {
      Leftover partial{folder_ / concat(name, partial_mark, static_cast<Index>(::getpid()))};
      if (::mkdir(partial.path.c_str(), 0777) != 0) detail::fail_at(partial.path, "cannot be made", errno);
      write(std::as_const(partial.path));
      detail::synchronise_all(partial.path);
      if (::rename(partial.path.c_str(), target.c_str()) != 0) detail::fail_at(target, "cannot be renamed to", errno);
    }
    detail::synchronise(folder_);
    link_latest(name);
    remove_old();
    return target;
  }

 private:
  static constexpr std::string_view partial_mark = ".partial-", removed_mark = ".removed-", latest = "latest";

  /// A folder that is not to stay.
  struct Leftover {
    std::filesystem::path path;
    ~Leftover() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };

  static int open_folder(std::filesystem::path const& folder, Index keep) {
    check_value(keep >= 1, "checkpoint", keep, " are to be kept, not at least 1");
    std::error_code failure;
    std::filesystem::create_directories(folder, failure);
    if (failure) detail::fail_at(folder, "cannot be made", failure.value());
    int const opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0) detail::fail_at(folder, "cannot be opened", errno);
    // Better now than after the first thousand steps.
    if (::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
      int const reason = errno;
      ::close(opened);
      detail::fail_at(folder, "cannot be written to", reason);
    }
    return opened;
  }

  /// "step-00000100.partial-42", "step-00000100.removed-42", "latest.partial-42"
  static bool is_leftover(std::string_view name) {
    for (auto const mark : {partial_mark, removed_mark})
      if (auto const at = name.find(mark); at != name.npos) {
        auto const stem = name.substr(0, at), process = name.substr(at + mark.size());
        return (stem == latest || detail::checkpoint_step(stem)) && !process.empty() &&
               process.find_first_not_of("0123456789") == process.npos;
      }
    return false;
  }

  void remove_leftovers() const {
    std::vector<std::filesystem::path> found;
    std::error_code failure;
    std::filesystem::directory_iterator entry{folder_, failure};
    for (; !failure && entry != std::filesystem::directory_iterator{}; entry.increment(failure))
      if (is_leftover(entry->path().filename().string())) found.push_back(entry->path());
    if (failure) detail::fail_at(folder_, "cannot be listed", failure.value());
    for (auto const& path : found) remove(path);
  }

  void remove_old() const {
    auto const all = list_checkpoints(folder_);
    for (std::size_t i = 0; i + static_cast<std::size_t>(keep_) < all.size(); ++i) {
      std::filesystem::path const going =
          folder_ / concat(detail::checkpoint_name(all[i].step), removed_mark, static_cast<Index>(::getpid()));
      if (::rename(all[i].folder.c_str(), going.c_str()) != 0) detail::fail_at(all[i].folder, "cannot be removed", errno);
      remove(going);
    }
  }

  static void remove(std::filesystem::path const& path) {
    std::error_code failure;
    std::filesystem::remove_all(path, failure);
    if (failure) detail::fail_at(path, "cannot be removed", failure.value());
  }

  /// A new link that is renamed over the old one, so there is always one once there was one.
  void link_latest(std::string const& name) const {
    auto const path = folder_ / concat(latest, partial_mark, static_cast<Index>(::getpid()));
    if (::symlink(name.c_str(), path.c_str()) != 0) {
      // A file system without links is no reason to stop.
      if (errno == EPERM || errno == ENOSYS || errno == EOPNOTSUPP) return;
      detail::fail_at(path, "cannot be made", errno);
    }
    Leftover const unless_renamed{path};
    if (::rename(path.c_str(), (folder_ / latest).c_str()) != 0) detail::fail_at(folder_ / latest, "cannot be replaced", errno);
  }

  std::filesystem::path folder_;
  Index keep_;
  detail::Descriptor lock_;
};

}  // namespace blackmamba::io
