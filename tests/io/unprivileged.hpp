#pragma once
// Permissions do not stop root: a scope in which this process is nobody, should it be root.

#include <doctest/doctest.h>

#include <filesystem>

#include <unistd.h>

namespace test {

class Unprivileged {
 public:
  Unprivileged() {
    if (was_root_) REQUIRE(::seteuid(65534) == 0);
  }
  Unprivileged(Unprivileged const&) = delete;
  Unprivileged& operator=(Unprivileged const&) = delete;
  ~Unprivileged() {
    if (was_root_) static_cast<void>(::seteuid(0));
  }

 private:
  bool was_root_ = ::geteuid() == 0;
};

/// Lets everybody list a folder, as folders of tests do not.
inline void open_to_all(std::filesystem::path const& folder) { std::filesystem::permissions(folder, std::filesystem::perms{0755}); }

}  // namespace test
