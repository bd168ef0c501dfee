#pragma once
/// \file
/// The threads behind `parallel_for`: one pool a process, that waits in a way that does no harm.
///
/// A step of a network is hundreds of loops of some 100 µs. Threads that sleep between them take as long to wake as the loop takes;
/// threads that spin until the next one hold cores that others could use, and where there are more runnable threads than cores
/// every loop then waits for the turn of whoever was put aside. So waiting spins for about as long as a loop takes, and then
/// sleeps.
///
/// The calling thread does its share, and whoever else is awake helps: a loop does not wait for threads that have not come when the
/// work is done. A process that has forked has no helpers and goes on alone.

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <blackmamba/core/config.hpp>

namespace blackmamba::detail {

/// Lets the core's other hardware thread have a turn.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class WorkerPool {
 public:
  /// The process's own.
  static WorkerPool& instance() {
    static WorkerPool pool;
    return pool;
  }

  WorkerPool() = default;
  WorkerPool(WorkerPool const&) = delete;
  WorkerPool& operator=(WorkerPool const&) = delete;
  ~WorkerPool() {
    if (::getpid() != process_) {  // a fork took along the names of its parent's threads, not the threads
      for (auto& worker : workers_) worker.detach();
      return;
    }
    stop_.store(true);
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  /// Calls `body(i)` for every i in [0, count) on up to `threads` threads, the caller's among them. A loop within a loop, and one
  /// that begins while another thread's is running, is run by its caller alone. Rethrows an exception of the body when all are
  /// done.
  template <class Body>
  void run(int threads, Index count, Body& body) {
    std::unique_lock const lock{busy_, std::try_to_lock};
    if (inside_a_loop() || !lock.owns_lock()) {
      for (Index i = 0; i < count; ++i) body(i);
      return;
    }
    InLoop const here;
    grow(threads - 1);
    body_ = const_cast<void*>(static_cast<void const*>(&body));
    call_ = [](void* what, Index i) { (*static_cast<Body*>(what))(i); };
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    places_.store(threads - 1, std::memory_order_relaxed);
    helpers_.fetch_and(~closed, std::memory_order_release);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    work();
    // No new helper from here on; those that are in it still may hold pieces.
    std::uint32_t now = helpers_.fetch_or(closed, std::memory_order_acq_rel) | closed;
    spin([&] { return (now = helpers_.load(std::memory_order_acquire)) == closed; });
    for (; now != closed; now = helpers_.load(std::memory_order_acquire)) helpers_.wait(now, std::memory_order_acquire);
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  static constexpr std::uint32_t closed = std::uint32_t{1} << 31;

  static bool& inside_a_loop() {
    thread_local bool inside = false;
    return inside;
  }
  struct InLoop {
    InLoop() { inside_a_loop() = true; }
    ~InLoop() { inside_a_loop() = false; }
  };

  /// Until `done()`, for as long as a loop takes.
  template <class Done>
  static void spin(Done&& done) {
    auto const end = std::chrono::steady_clock::now() + std::chrono::microseconds{60};
    do
      for (int i = 0; i < 64; ++i) {
        if (done()) return;
        relax();
      }
    while (std::chrono::steady_clock::now() < end);
  }

  void grow(int helpers) {
    while (static_cast<int>(workers_.size()) < helpers) workers_.emplace_back([this, seen = round_.load()] { serve(seen); });
  }

  void serve(std::uint32_t seen) {
    InLoop const here;
    while (true) {
      spin([&] { return round_.load(std::memory_order_acquire) != seen; });
      round_.wait(seen, std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      seen = round_.load(std::memory_order_acquire);
      // Counted in before looking whether the loop is still open, so that its caller cannot leave in between.
      if (!(helpers_.fetch_add(1, std::memory_order_acq_rel) & closed) && places_.fetch_sub(1, std::memory_order_relaxed) > 0)
        work();
      if (helpers_.fetch_sub(1, std::memory_order_acq_rel) == (closed | 1)) helpers_.notify_all();
    }
  }

  void work() {
    for (Index i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      try {
        call_(body_, i);
      } catch (...) {
        std::lock_guard const lock{failing_};
        failure_ = std::current_exception();
      }
    }
  }

  pid_t const process_ = ::getpid();
  std::mutex busy_, failing_;
  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};
  std::exception_ptr failure_;

  // The loop that runs.
  void* body_ = nullptr;
  void (*call_)(void*, Index) = nullptr;
  Index count_ = 0;
  alignas(64) std::atomic<Index> next_{0};
  alignas(64) std::atomic<std::uint32_t> round_{0};         // changes when a loop begins
  alignas(64) std::atomic<std::uint32_t> helpers_{closed};  // threads inside the loop, and whether it takes no more
  std::atomic<int> places_{0};                              // for further helpers
};

/// Processors that this process may use, or OMP_NUM_THREADS if that is a number of at least 1.
inline int default_threads() {
  static int const threads = [] {
    if (char const* const wanted = std::getenv("OMP_NUM_THREADS"))
      if (int const n = std::atoi(wanted); n >= 1) return n;
    unsigned const n = std::thread::hardware_concurrency();
    return n > 0 ? static_cast<int>(n) : 1;
  }();
  return threads;
}

}  // namespace blackmamba::detail
