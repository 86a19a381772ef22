"""fastctr inside other projects' programs: each module needs the project it is for, and nothing else does."""
