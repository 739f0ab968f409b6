// A stack that does not depend on the caller's `ulimit -s`.
#pragma once

namespace postern::system {

// Runs `function`, on a stack of this program's own where the caller's limit leaves too little. The
// limit itself stays as it is: it is the payload's.
int on_roomy_stack(int (*function)(int argc, char** argv), int argc, char** argv);

}  // namespace postern::system
