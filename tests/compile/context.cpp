// What an operation runs on is a context: cheap to copy, knows its scratch memory and its threads.

#include <blackmamba/core/context.hpp>

using namespace blackmamba;

template <Context Ctx>
void use(Ctx const&) {}

struct WithoutScratch {
  int threads() const { return 1; }
};

struct WithoutThreads {
  Arena& scratch() const;
};

struct Mine : Cpu {};

void all() {
  use(Reference{});
  use(Cpu{1});
  use(Mine{});
#if MISTAKE == 1  // refused: c.scratch()
  use(WithoutScratch{});
#elif MISTAKE == 2  // refused: c.threads()
  use(WithoutThreads{});
#endif
}
