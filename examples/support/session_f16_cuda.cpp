#include <blackmamba/cuda.cuh>

#include "support/session_as.hpp"

template std::unique_ptr<program::Session> program::open_session_as<blackmamba::half, blackmamba::Cuda>(
    program::ModelChoice const&);
