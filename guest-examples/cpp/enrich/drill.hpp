// Faults on request, for the tests of wasmill: an event of type `drill` names one of them in its data.
#pragma once

#include "event_handler.h"

// Ends in the way that an event of type `drill` asks for; does nothing for any other event.
void drill(const exports_wasmill_events_handler_event_t &event);
