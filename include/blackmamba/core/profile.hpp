#pragma once
/// \file
/// Named ranges around operations, for whoever wants to see where time goes. Nobody listening costs one load and a branch.

#include <atomic>

namespace blackmamba {

/// Receives the beginning and the end of every operation. Calls nest and come from the calling thread.
struct ProfileListener {
  virtual ~ProfileListener() = default;
  virtual void enter(char const* name) = 0;
  virtual void leave(char const* name) = 0;
};

namespace detail {
inline std::atomic<ProfileListener*> profile_listener{nullptr};
}

/// Sets the listener of the process, or none. It must outlive its use.
inline void set_profile_listener(ProfileListener* listener) { detail::profile_listener.store(listener); }

/// Marks its own lifetime as the range `name`.
class ProfileRange {
 public:
  explicit ProfileRange(char const* name) : name_{name}, listener_{detail::profile_listener.load(std::memory_order_relaxed)} {
    if (listener_) listener_->enter(name_);
  }
  ProfileRange(ProfileRange const&) = delete;
  ProfileRange& operator=(ProfileRange const&) = delete;
  ~ProfileRange() {
    if (listener_) listener_->leave(name_);
  }

 private:
  char const* name_;
  ProfileListener* listener_;
};

}  // namespace blackmamba
