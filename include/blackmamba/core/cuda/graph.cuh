#pragma once
/// \file
/// Queued work as a CUDA graph: recorded once, launched with one call.

#include <memory>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/replay.hpp>

namespace blackmamba {

/// What `body` queues on the context's stream, recorded while the scratch memory is sealed: nothing in it may allocate, wait, or
/// decide on the host by what is on the device. Run `body` once before, so that scratch memory has its size; other arenas that it
/// takes from, a tape say, must have theirs too (`seal()` them). The graph holds the scratch memory of its recording, which stays
/// valid when the context moves on to more; every other tensor that `body` names must live, in its place, as long as the graph.
/// Throws `memory_error` where scratch memory would grow, and `cuda_error` on what cannot be recorded.
class CudaGraph {
 public:
  template <class Body>
  CudaGraph(Cuda const& ctx, Body&& body) : ctx_{ctx} {
    detail::DeviceScope const scope{ctx.device()};
    Recording recording{ctx};
    body();
    recording.end(graph_);
    scratch_ = ctx.scratch().hold();
    cudaError_t const made = cudaGraphInstantiate(&executable_, graph_, 0);
    if (made != cudaSuccess) cudaGraphDestroy(graph_);
    detail::check_cuda(made, "cudaGraphInstantiate");
  }
  CudaGraph(CudaGraph const&) = delete;
  CudaGraph& operator=(CudaGraph const&) = delete;
  ~CudaGraph() { cudaGraphExecDestroy(executable_), cudaGraphDestroy(graph_); }

  /// Queues all of it.
  void launch() const {
    detail::DeviceScope const scope{ctx_.device()};
    detail::check_cuda(cudaGraphLaunch(executable_, ctx_.stream()), "cudaGraphLaunch");
  }

 private:
  /// The stream records until `end`, or until an exception leaves it behind.
  class Recording {
   public:
    explicit Recording(Cuda const& ctx) : ctx_{ctx}, sealed_{ctx.scratch()} {
      detail::check_cuda(cudaStreamBeginCapture(ctx.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    }
    Recording(Recording const&) = delete;
    Recording& operator=(Recording const&) = delete;
    ~Recording() {
      if (ended_) return;
      cudaGraph_t left_behind = nullptr;
      cudaStreamEndCapture(ctx_.stream(), &left_behind);
      if (left_behind) cudaGraphDestroy(left_behind);
      cudaGetLastError();
    }

    void end(cudaGraph_t& graph) {
      ended_ = true;
      detail::check_cuda(cudaStreamEndCapture(ctx_.stream(), &graph), "cudaStreamEndCapture");
    }

   private:
    Cuda ctx_;
    Arena::Sealed sealed_;
    bool ended_ = false;
  };

  Cuda ctx_;
  Arena::Hold scratch_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

template <Context Ctx, std::invocable Body>
requires std::derived_from<Ctx, Cuda>
class Replay<Ctx, Body> {
 public:
  Replay(Ctx const& ctx, Body body) : ctx_{ctx}, body_{std::move(body)} {}

  void operator()() {
    if (calls_++ == 0) return body_();
    if (!graph_) graph_ = std::make_unique<CudaGraph>(ctx_, body_);
    graph_->launch();
  }

 private:
  Ctx ctx_;
  Body body_;
  std::unique_ptr<CudaGraph> graph_;
  int calls_ = 0;
};

}  // namespace blackmamba
