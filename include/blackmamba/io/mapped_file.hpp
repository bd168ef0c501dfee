#pragma once
/// \file
/// A whole file in the address space, read-only: pages come from the disk when they are touched and are never copied.

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <blackmamba/core/config.hpp>
#include <blackmamba/core/error.hpp>

namespace blackmamba::io {

namespace detail {

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_{fd} {}
  Descriptor(Descriptor const&) = delete;
  Descriptor& operator=(Descriptor const&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

  /// Closes now and says whether the system reported an error: a full network disk may do so only here.
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

inline std::string system_message(int code) { return std::strerror(code); }

}  // namespace detail

/// Read-only mapping of a regular file.
///
/// Throws `file_error` naming the path and the reason: missing, not a regular file, unreadable, empty. Another process that
/// shortens the file while it is mapped ends this one (SIGBUS), as with every mapping: replace checkpoints by renaming, as our
/// writers do.
class MappedFile {
 public:
  MappedFile() = default;

  explicit MappedFile(std::filesystem::path const& path) : path_{path.string()} {
    // Without O_NONBLOCK, opening a named pipe waits for a writer that may never come.
    detail::Descriptor const file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (!file) fail(concat("cannot be opened: ", detail::system_message(errno)));
    struct stat status;
    if (::fstat(file.get(), &status) != 0) fail(concat("cannot be examined: ", detail::system_message(errno)));
    if (S_ISDIR(status.st_mode)) fail("is a folder, not a file");
    if (!S_ISREG(status.st_mode)) fail("is not a regular file");
    if (status.st_size == 0) fail("is empty");
    size_ = static_cast<std::size_t>(status.st_size);
    void* const memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (memory == MAP_FAILED) fail(concat("of ", size_, " bytes cannot be mapped: ", detail::system_message(errno)));
    data_ = static_cast<std::byte const*>(memory);
  }

  MappedFile(MappedFile&& other) noexcept
      : path_{std::move(other.path_)}, data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)} {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_), std::swap(data_, other.data_), std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  std::span<std::byte const> bytes() const { return {data_, size_}; }
  std::string const& path() const { return path_; }

 private:
  [[noreturn]] void fail(std::string const& reason) const { throw file_error(concat(path_, ": ", reason)); }

  std::string path_;
  std::byte const* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace blackmamba::io
