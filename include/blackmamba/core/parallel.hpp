#pragma once
/// \file
/// Loops over threads. The work is cut into pieces that do not depend on the number of threads, so neither do the results.

#include <blackmamba/core/worker_pool.hpp>

namespace blackmamba {

/// Threads that a context starts with: the processors that the process may use, or what OMP_NUM_THREADS says.
inline int available_threads() { return detail::default_threads(); }

/// Calls `body(i)` for every i in [0, count), on up to `threads` threads, in no particular order. Iterations must not depend on
/// each other. An exception from any of them is rethrown here once all threads are done.
template <class Body>
void parallel_for(int threads, Index count, Body&& body) {
  if (threads <= 1 || count <= 1) {
    for (Index i = 0; i < count; ++i) body(i);
    return;
  }
  detail::WorkerPool::instance().run(threads, count, body);
}

/// Cuts [0, count) into pieces of `grain` and calls `body(begin, end)` for each, on up to `threads` threads.
template <class Body>
void parallel_ranges(int threads, Index count, Index grain, Body&& body) {
  if (grain < 1) grain = 1;
  Index const pieces = (count + grain - 1) / grain;
  parallel_for(threads, pieces, [&](Index piece) {
    Index const begin = piece * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

}  // namespace blackmamba
