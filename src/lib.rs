//! Guest-facing MSI, MSI-X and IMS on interrupt domains that grow vector by vector.
