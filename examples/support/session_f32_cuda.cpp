#include <blackmamba/cuda.cuh>

#include "support/session_as.hpp"

template std::unique_ptr<program::Session> program::open_session_as<float, blackmamba::Cuda>(program::ModelChoice const&);
