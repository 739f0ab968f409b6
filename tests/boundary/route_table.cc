// Prints the table of postern-security(7), "HOW AN IMAGE RUNS".
#include <cstdio>

#include "policy/judge/route.h"

int main() {
  return std::fputs(postern::judge::route_table().c_str(), stdout) < 0 ? 1 : 0;
}
