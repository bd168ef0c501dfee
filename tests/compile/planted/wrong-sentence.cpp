#if MISTAKE == 1  // refused: this is not what a compiler says
int x
#endif
